"""Kernels for Armv6-M (Cortex-M0+): which templates an operator has."""

from collections.abc import Iterable

from qkd.graph.graph import Add, AveragePool2d, Conv2d, Conv2dAdd, DepthwiseConv2d, FullyConnected, Op, QuantGraph
from qkd.target import Target
from qkd.targets.kernels.armv6_m import connected, convolution, depthwise, elementwise
from qkd.targets.kernels.armv6_m.cost import ADD, POOL
from qkd.targets.kernels.candidate import Offer
from qkd.targets.kernels.rates import with_rate


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterable[Offer]:
    """Every kernel that is proved safe for an operator, with its estimate; nothing where there is none."""
    match op:
        case Conv2d() | Conv2dAdd():
            return convolution.candidates(graph, op)
        case FullyConnected():
            return connected.candidates(graph, op)
        case DepthwiseConv2d():
            return depthwise.candidates(graph, op)
        case Add():
            return with_rate((elementwise.add_kernel(graph, op),), ADD, graph, op)
        case AveragePool2d():
            return with_rate(elementwise.average_pool_kernels(graph, op), POOL, graph, op)
        case _:
            return ()
