"""The quantized student: quantizers, layers, tracing, and freezing into the integer graph."""
