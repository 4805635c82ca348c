"""Kernels for the DSP extension of Armv7E-M (Cortex-M4, M7, M33): which templates an operator has."""

from collections.abc import Iterable

from qkd.graph import Add, AveragePool2d, Conv2d, DepthwiseConv2d, FullyConnected, Op, QuantGraph
from qkd.kernel import Kernel
from qkd.target import Target
from qkd.targets.kernels import armv7e_m_convolution, armv7e_m_depthwise, armv7e_m_elementwise, armv7e_m_lookup
from qkd.targets.kernels.armv7e_m_gemm import Tile

SHAPES = ((2, 2, 2), (2, 2, 1), (2, 2, 4), (4, 1, 2), (4, 1, 4), (1, 4, 1), (1, 4, 2), (1, 1, 4))
TILES = tuple(Tile(*shape) for shape in SHAPES)


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterable[Kernel]:
    """Every kernel that is proved safe for an operator."""
    match op:
        case DepthwiseConv2d():
            yield from armv7e_m_depthwise.candidates(graph, op)
        case Conv2d() | FullyConnected():
            if isinstance(op, Conv2d):
                yield from armv7e_m_lookup.candidates(graph, op)
            yield from armv7e_m_convolution.candidates(graph, op, TILES)
        case Add():
            yield armv7e_m_elementwise.add_kernel(graph, op)
        case AveragePool2d():
            yield from armv7e_m_elementwise.average_pool_kernels(graph, op)
        case _:
            return
