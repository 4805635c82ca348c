"""Residual adds on MVE: four codes at a time in 32-bit lanes."""

from collections.abc import Iterable
from dataclasses import dataclass

from qkd.graph.fixed_point import AddRescale
from qkd.graph.graph import Add, QuantGraph
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, PRELUDE, QUAD, narrow, trip_count
from qkd.targets.kernels.epilogue import add_rescaled
from qkd.targets.kernels.make import make_kernel
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Operand, Pointer, cast, let, loop, widen


def candidates(graph: QuantGraph, op: Add) -> Iterable[Kernel]:
    """One kernel; it works in place, since it reads 16 codes of both inputs before it writes any."""

    def body(a: Pointer, b: Pointer, y: Pointer) -> None:
        add_codes(Codes(a), Codes(b), Codes(y), graph.values[op.output].elements, op.epilogue)

    yield make_kernel(
        graph, op, body, in_place=True, variant="mve_add", prelude=PRELUDE,
        why="four codes at a time; `freeze` proved that their sum stays within int32",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes from an element of a tensor on."""

    tensor: Pointer
    start: Operand = 0

    def at(self, place: Operand) -> Operand:
        """The element that is `place` codes behind the start."""
        return place + self.start


def add_codes(a: Codes, b: Codes, y: Codes, count: int, p: AddRescale) -> None:
    """Add `count` codes; `y` may be `a` or `b`."""
    vectors = count // LANES
    if vectors:
        with loop(trip_count(vectors)) as i:
            places = [i * LANES + first for first in range(0, LANES, QUAD)]
            sums = [let(_add_quad(a, b, place, p)) for place in places]
            for place, codes in zip(places, sums, strict=True):
                y.tensor[y.at(place)] = codes
    for first in range(vectors * LANES, count - count % QUAD, QUAD):
        y.tensor[y.at(first)] = _add_quad(a, b, first, p)
    for last in range(count - count % QUAD, count):
        y.tensor[y.at(last)] = cast(add_rescaled(a.tensor[a.at(last)], b.tensor[b.at(last)], p), "int8")


def _add_quad(a: Codes, b: Codes, place: Operand, p: AddRescale) -> Expr:
    """Four codes of a sum: int8x4."""
    of_a, of_b = (widen(codes.tensor.load(codes.at(place), QUAD)) for codes in (a, b))
    return narrow(let(of_a * p.multiplier_a + of_b * p.multiplier_b + p.offset), p.shift, p.qmin, p.qmax)
