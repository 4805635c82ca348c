"""A linear cost model: what a kernel does, counted from shapes, times cycles a piece that were fitted to counted runs.

`python -m benchmarks.kernel_choice` runs the variants of each layer of the benchmark's networks in the emulator and
estimates cycles from what was executed (`targets.cycle_model`, llvm-mca); the rates are least squares of the relative
error to such runs. They are good for ranking kernels, not for predicting a board.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qkd.graph.graph import Add, AveragePool2d, MaxPool2d, Op, QuantGraph, op_inputs
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel


@dataclass(frozen=True)
class Work:
    """What an operator has to do, whatever the kernel."""

    macs: int
    """Multiply-accumulates; of a pool the codes that are read."""
    outputs: int
    inputs: int
    weights: int
    pixels: int
    """Output positions."""


@dataclass(frozen=True)
class Rate:
    """Estimated cycles of a kernel: each field is a number of cycles for one of what it names.

    `n` is the number at the end of a variant's name: chunks that are added before widening (`dot_lanes_n`), groups of
    channels or runs of taps (`winograd_n`, `depthwise_n`).
    """

    mac: float = 0.0
    mac_over_n: float = 0.0
    output: float = 0.0
    output_times_n: float = 0.0
    input: float = 0.0
    weight: float = 0.0
    call: float = 0.0

    def cycles(self, work: Work, variant: str = "") -> int:
        """Cycles of one call."""
        number = re.search(r"_(\d+)$", variant)
        n = int(number[1]) if number else 1
        return round(
            work.macs * (self.mac + self.mac_over_n / n) + work.outputs * (self.output + self.output_times_n * n)
            + work.inputs * self.input + work.weights * self.weight + self.call
        )  # fmt: skip


def work_of(graph: QuantGraph, op: Op) -> Work:
    """Count what an operator does."""
    outputs = graph.values[op.output].elements
    inputs = sum(graph.values[name].elements for name in op_inputs(op))
    if isinstance(op, Add):
        return Work(0, outputs, inputs, 0, outputs)
    if isinstance(op, AveragePool2d | MaxPool2d):
        window = window_of(graph, op)
        return Work(outputs * window.taps, outputs, inputs, 0, window.out_height * window.out_width)
    weight = graph.values[op.weight]  # type: ignore[union-attr]
    pixels = outputs // weight.shape[0]
    return Work(pixels * weight.elements, outputs, inputs, weight.elements, pixels)


def with_rate(kernels: Iterable[Kernel | Refused], rate: Rate, graph: QuantGraph, op: Op) -> Iterator[Offer]:
    """Kernels of one rate as candidates; what is refused stays so."""
    work = work_of(graph, op)
    for kernel in kernels:
        yield kernel if isinstance(kernel, Refused) else Candidate.of(kernel, rate.cycles(work, kernel.variant))
