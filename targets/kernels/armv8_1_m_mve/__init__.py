"""Kernels for Armv8.1-M with the vector extension (MVE, Helium), as on Cortex-M55."""

from collections.abc import Iterable

from qkd.graph.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Conv2dAdd,
    DepthwiseConv2d,
    FullyConnected,
    MaxPool2d,
    Op,
    QuantGraph,
)
from qkd.target import Target
from qkd.targets.kernels.armv8_1_m_mve import add, conv, depthwise, pool
from qkd.targets.kernels.armv8_1_m_mve.cost import ADD, DEPTHWISE, POOL
from qkd.targets.kernels.candidate import Offer
from qkd.targets.kernels.rates import with_rate


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterable[Offer]:
    """The kernels that are proved safe for an operator, with their estimates; nothing where MVE has none."""
    match op:
        case Conv2d() | Conv2dAdd() | FullyConnected():
            return conv.candidates(graph, op)
        case DepthwiseConv2d():
            return with_rate(depthwise.candidates(graph, op), DEPTHWISE, graph, op)
        case Add():
            return with_rate(add.candidates(graph, op), ADD, graph, op)
        case AveragePool2d() | MaxPool2d():
            return with_rate(pool.candidates(graph, op), POOL, graph, op)
        case _:
            return ()
