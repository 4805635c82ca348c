"""Kernels for Armv8.1-M with the vector extension (MVE, Helium), as on Cortex-M55."""

from collections.abc import Iterable

from qkd.graph import Conv2d, DepthwiseConv2d, FullyConnected, Op, QuantGraph
from qkd.kernel import Kernel
from qkd.target import Target
from qkd.targets.kernels import armv8_1_m_mve_conv as conv
from qkd.targets.kernels import armv8_1_m_mve_depthwise as depthwise


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterable[Kernel]:
    """The kernels that are proved safe for an operator, best first; nothing where MVE has none."""
    match op:
        case Conv2d() | FullyConnected():
            return conv.candidates(graph, op)
        case DepthwiseConv2d():
            return depthwise.candidates(graph, op)
        case _:
            return ()
