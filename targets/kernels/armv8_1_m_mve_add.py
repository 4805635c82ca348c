"""Residual adds on MVE: four codes at a time in 32-bit lanes."""

from collections.abc import Iterable

from qkd.fixed_point import AddRescale
from qkd.graph import Add, QuantGraph
from qkd.kernel import Kernel
from qkd.targets.kernels.armv8_1_m_mve_vectors import LANES, PRELUDE, QUAD, narrow, trip_count
from qkd.targets.kernels.epilogue import add_rescaled
from qkd.targets.kernels.generic import make_kernel
from qkd.tir import Expr, Operand, Pointer, cast, let, loop, widen


def candidates(graph: QuantGraph, op: Add) -> Iterable[Kernel]:
    """One kernel; it works in place, since it reads 16 codes of both inputs before it writes any."""
    elements = graph.values[op.output].elements
    vectors = elements // LANES

    def body(a: Pointer, b: Pointer, y: Pointer) -> None:
        if vectors:
            with loop(trip_count(vectors)) as i:
                starts = [i * LANES + first for first in range(0, LANES, QUAD)]
                sums = [let(_add_quad(a, b, start, op.epilogue)) for start in starts]
                for start, codes in zip(starts, sums, strict=True):
                    y[start] = codes
        for first in range(vectors * LANES, elements - elements % QUAD, QUAD):
            y[first] = _add_quad(a, b, first, op.epilogue)
        for at in range(elements - elements % QUAD, elements):
            y[at] = cast(add_rescaled(a[at], b[at], op.epilogue), "int8")

    yield make_kernel(
        graph, op, body, in_place=True, variant="mve_add", prelude=PRELUDE,
        why="four codes at a time; `freeze` proved that their sum stays within int32",
    )  # fmt: skip


def _add_quad(a: Pointer, b: Pointer, start: Operand, p: AddRescale) -> Expr:
    """Four codes of a sum: int8x4."""
    total = widen(a.load(start, QUAD)) * p.multiplier_a + widen(b.load(start, QUAD)) * p.multiplier_b + p.offset
    return narrow(let(total), p.shift, p.qmin, p.qmax)
