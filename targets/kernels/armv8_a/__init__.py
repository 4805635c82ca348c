"""Kernels for AArch64, each with its proof and its estimate: the families of Armv8.0, the dot product and i8mm."""

from collections.abc import Iterator

from qkd.graph.graph import Add, AveragePool2d, Conv2d, DepthwiseConv2d, FullyConnected, MaxPool2d, Op, QuantGraph
from qkd.target import Target
from qkd.targets.kernels.armv8_a import depthwise, direct, dot_lanes, few_taps, sdot, smmla, winograd
from qkd.targets.kernels.armv8_a.elements import is_in_order
from qkd.targets.kernels.armv8_a.elementwise import add_candidates, pool_candidates
from qkd.targets.kernels.armv8_a.rates import cycles, rates_of
from qkd.targets.kernels.armv8_a.requantize import is_supported
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.rates import work_of
from qkd.tir.kernel import Kernel


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterator[Offer]:
    """Kernels of an operator with their estimates; nothing where only the generic kernel is right."""
    work, core = work_of(graph, op), rates_of(target)
    for found in _kernels(graph, op, target):
        yield found if isinstance(found, Refused) else Candidate.of(found, cycles(work, found.variant, core))


def _kernels(graph: QuantGraph, op: Op, target: Target) -> Iterator[Kernel | Refused]:
    match op:
        case Conv2d() | FullyConnected() if is_supported(op.epilogue):
            if target.instruction_set == "armv8.0-a":
                yield from _armv8_0(graph, op, is_in_order(target))
            else:
                if target.instruction_set == "armv8.6-a.i8mm" and isinstance(op, Conv2d):
                    yield from smmla.candidates(graph, op)
                yield from sdot.candidates(graph, op)
        case DepthwiseConv2d() if is_supported(op.epilogue):
            yield from depthwise.candidates(graph, op)
        case Add() if is_supported(op.epilogue):
            yield from add_candidates(graph, op)
        case AveragePool2d() if is_supported(op.epilogue):
            yield from pool_candidates(graph, op)
        case MaxPool2d():
            yield from pool_candidates(graph, op)


def _armv8_0(graph: QuantGraph, op: Conv2d | FullyConnected, in_order: bool) -> Iterator[Kernel | Refused]:
    if isinstance(op, Conv2d):
        yield from winograd.candidates(graph, op, in_order)
        yield from direct.candidates(graph, op, in_order)
        if in_order:
            yield from few_taps.candidates(graph, op)
    yield from dot_lanes.candidates(graph, op)
