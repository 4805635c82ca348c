"""Kernels for Armv8.1-M with the vector extension (MVE, Helium), as on Cortex-M55."""

from collections.abc import Iterable

from qkd.graph import Add, AveragePool2d, Conv2d, DepthwiseConv2d, FullyConnected, MaxPool2d, Op, QuantGraph
from qkd.kernel import Kernel
from qkd.target import Target
from qkd.targets.kernels import armv8_1_m_mve_add as add
from qkd.targets.kernels import armv8_1_m_mve_conv as conv
from qkd.targets.kernels import armv8_1_m_mve_depthwise as depthwise
from qkd.targets.kernels import armv8_1_m_mve_pool as pool


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterable[Kernel]:
    """The kernels that are proved safe for an operator, best first; nothing where MVE has none."""
    match op:
        case Conv2d() | FullyConnected():
            return conv.candidates(graph, op)
        case DepthwiseConv2d():
            return depthwise.candidates(graph, op)
        case Add():
            return add.candidates(graph, op)
        case AveragePool2d() | MaxPool2d():
            return pool.candidates(graph, op)
        case _:
            return ()
