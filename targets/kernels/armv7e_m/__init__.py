"""Kernels for the DSP extension of Armv7E-M (Cortex-M4, M7, M33): which templates an operator has."""

from collections.abc import Iterable
from itertools import chain

from qkd.graph.graph import Add, AveragePool2d, Conv2d, Conv2dAdd, DepthwiseConv2d, FullyConnected, Op, QuantGraph
from qkd.target import Target
from qkd.targets.kernels.armv7e_m import convolution, depthwise, depthwise_pairs, elementwise, lookup
from qkd.targets.kernels.armv7e_m.cost import ADD, DEPTHWISE, DEPTHWISE_PAIRS, POOL
from qkd.targets.kernels.candidate import Offer
from qkd.targets.kernels.rates import with_rate


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterable[Offer]:
    """Every kernel that is proved safe for an operator, with its estimate; nothing where there is none."""
    match op:
        case Conv2d() | Conv2dAdd():
            return chain(convolution.candidates(graph, op), lookup.candidates(graph, op))
        case FullyConnected():
            return convolution.candidates(graph, op)
        case DepthwiseConv2d():
            pairs, taps = depthwise_pairs.candidates(graph, op), depthwise.candidates(graph, op)
            return chain(with_rate(pairs, DEPTHWISE_PAIRS, graph, op), with_rate(taps, DEPTHWISE, graph, op))
        case Add():
            return with_rate((elementwise.add_kernel(graph, op),), ADD, graph, op)
        case AveragePool2d():
            return with_rate(elementwise.average_pool_kernels(graph, op), POOL, graph, op)
        case _:
            return ()
