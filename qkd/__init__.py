"""qkd: a distillation compiler for low-bit neural networks on Arm."""

__version__ = "0.1.0"
