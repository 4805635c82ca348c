"""A planned graph with its kernels becomes a library of object files."""
