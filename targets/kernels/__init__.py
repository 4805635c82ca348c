"""Kernels by instruction set."""
