"""Generic kernels as candidates: rough rates, for they only win where everything else is refused or a layer is tiny."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qkd.graph.graph import Add, AveragePool2d, DepthwiseConv2d, MaxPool2d, Op, QuantGraph
from qkd.target import InstructionSet, Target
from qkd.targets.kernels import generic
from qkd.targets.kernels.candidate import Candidate
from qkd.targets.kernels.rates import Rate, work_of


@dataclass(frozen=True)
class GenericRates:
    """Rates of the generic kernels on one instruction set; compilers vectorise products of bytes only."""

    bytes: Rate
    fields: Rate
    depthwise: Rate
    add: Rate
    pool: Rate


SCALAR = GenericRates(Rate(mac=6.5, output=25), Rate(mac=6, output=25), Rate(mac=10, output=25), Rate(output=19),
                      Rate(mac=6, output=20))  # fmt: skip
ARMV6_M = GenericRates(Rate(mac=11, output=55), Rate(mac=9.8, output=75), Rate(mac=26, output=70), Rate(output=25),
                       Rate(mac=10, output=60))  # fmt: skip
MVE = GenericRates(Rate(mac=0.28, output=11.6), Rate(mac=1.86, output=12), Rate(mac=5.8), Rate(output=10.7),
                   Rate(mac=1.2))  # fmt: skip
NEON = GenericRates(Rate(mac=0.37, output=21.8), Rate(mac=1.7, output=20), Rate(mac=2.6), Rate(output=17.5),
                    Rate(mac=0.7))  # fmt: skip
"""Fitted to an in-order core; others are two to three times as fast, as are their other kernels."""

RATES: Mapping[InstructionSet, GenericRates] = {
    "host": NEON,
    "armv6-m": ARMV6_M,
    "armv7e-m": SCALAR,
    "armv8.1-m.mve": MVE,
    "armv8.0-a": NEON,
    "armv8.2-a.dotprod": NEON,
    "armv8.6-a.i8mm": NEON,
}


def candidates(graph: QuantGraph, op: Op, target: Target) -> Iterator[Candidate]:
    """The generic kernel of an operator with its estimate."""
    for kernel in generic.kernels(graph, op, target):
        yield Candidate.of(kernel, _rate(graph, op, RATES[target.instruction_set]).cycles(work_of(graph, op)))


def _rate(graph: QuantGraph, op: Op, rates: GenericRates) -> Rate:
    match op:
        case Add():
            return rates.add
        case AveragePool2d() | MaxPool2d():
            return rates.pool
        case DepthwiseConv2d():
            return rates.depthwise
        case _:
            weight = graph.values[op.weight]  # type: ignore[union-attr]
            return rates.bytes if weight.codebook is None and weight.bits == 8 else rates.fields
