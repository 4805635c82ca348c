"""Writing kernels in TVM's TIR."""
