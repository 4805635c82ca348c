"""Kernels for the DSP extension of Armv7E-M (Cortex-M4, M7, M33): which templates an operator has."""

from collections.abc import Iterable
from itertools import chain

from qkd.graph import Add, AveragePool2d, Conv2d, Conv2dAdd, DepthwiseConv2d, FullyConnected, Op, QuantGraph
from qkd.kernel import Kernel
from qkd.target import Target
from qkd.targets.kernels import (
    armv7e_m_convolution,
    armv7e_m_depthwise,
    armv7e_m_depthwise_pairs,
    armv7e_m_elementwise,
    armv7e_m_lookup,
)
from qkd.targets.kernels.armv7e_m_candidate import cheapest_first


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterable[Kernel]:
    """Every kernel that is proved safe for an operator, the one with the fewest estimated cycles first."""
    match op:
        case Conv2d() | Conv2dAdd():
            products, lookups = armv7e_m_convolution.candidates(graph, op), armv7e_m_lookup.candidates(graph, op)
            return cheapest_first(chain(products, lookups))
        case FullyConnected():
            return cheapest_first(armv7e_m_convolution.candidates(graph, op))
        case DepthwiseConv2d():
            return chain(armv7e_m_depthwise_pairs.candidates(graph, op), armv7e_m_depthwise.candidates(graph, op))
        case Add():
            return (armv7e_m_elementwise.add_kernel(graph, op),)
        case AveragePool2d():
            return armv7e_m_elementwise.average_pool_kernels(graph, op)
        case _:
            return ()
