"""Convolutions on Armv6-M: which plans of `Rows` are safe, with what they cost."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Conv2d, Conv2dAdd, QuantGraph, Value
from qkd.targets.kernels.armv6_m.cost import rows_cycles
from qkd.targets.kernels.armv6_m.requantize import DigitRequantize, accumulator_range, digit_requantize
from qkd.targets.kernels.armv6_m.rows import LOOKUPS, Lookup, Multiply, Rows, Scheme
from qkd.targets.kernels.armv6_m.rows_body import rows_kernel
from qkd.targets.kernels.bounds import beyond
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.make import WITH_ADD
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel

WORDS = (2, 3, 4, 5)
SHORTEST_PART = 8
"""Fewest weights between two additions to wide sums; shorter parts cost more than single lanes."""

Convolution = Conv2d | Conv2dAdd


def fits_half(rows: NDArray[np.int64], entry: Value) -> bool:
    """Whether the sum of products of every row stays within int16, whatever the input."""
    low, high = accumulator_range(rows, entry.qmin, entry.qmax)
    return bool(low.min() >= -(2**15) and high.max() < 2**15)


def grouped(codes: NDArray[np.int64], group: int) -> NDArray[np.int64]:
    """Weights (O, KH, KW, C) as units (O, KH, KW * units, group), filled with zeros."""
    out, height, width, channels = codes.shape
    filled = np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, -channels % group)))
    return filled.reshape(out, height, width * filled.shape[-1] // group, group)


def packed_weights(units: NDArray[np.int64], scheme: Scheme) -> NDArray[np.int8] | NDArray[np.uint8]:
    """Units as they lie in flash: a byte of unsigned weights each, or digits of fractions.

    A fraction of 24 bits has the codes as its first digits in base `unit_entries`: multiplying it by that base gives
    one code after the other above the point.
    """
    places = np.arange(units.shape[-1])
    if isinstance(scheme, Multiply):
        fields = (units + scheme.zero) << scheme.bits * places
        return np.ascontiguousarray(fields.sum(axis=-1), np.uint8).view(np.int8).ravel()
    count, base = scheme.codes_per_fraction, scheme.unit_entries
    codes = ((units - scheme.lowest) * scheme.levels**places).sum(axis=-1).ravel()
    digits = np.pad(codes, (0, -len(codes) % count)).reshape(-1, count)
    value = (digits * base ** np.arange(count - 1, -1, -1)).sum(axis=1)
    fraction = -(-(value << 24) // base**count)
    return np.ascontiguousarray(fraction[:, None] >> np.array([0, 8, 16]) & 0xFF, np.uint8).ravel()


def candidates(graph: QuantGraph, op: Convolution) -> Iterator[Offer]:
    """Every plan of a layer, safe or refused."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    rows = weight.codes.reshape(weight.shape[0], -1)
    steps = digit_requantize(op.epilogue, *accumulator_range(rows, entry.qmin, entry.qmax))
    if steps is None:
        yield Refused("multiply", "no digits of the multiplier give every code")
        return
    for scheme, words, paired in itertools.product(_schemes(weight), WORDS, (True, False)):
        if isinstance(scheme, Lookup) and words & (words - 1):
            continue  # where an entry lies is its number shifted
        plan = _plan(graph, op, scheme, words, paired)
        if isinstance(plan, Rows):
            yield _candidate(graph, op, plan, steps)
        elif plan is not None:
            yield plan


def _schemes(weight: Value) -> Iterator[Scheme]:
    yield Multiply(weight.bits)
    low, high = int(weight.codes.min()), int(weight.codes.max())
    for lookup in LOOKUPS:
        if lookup.lowest <= low and high < lookup.lowest + lookup.levels:
            yield lookup
            return


def _plan(graph: QuantGraph, op: Convolution, scheme: Scheme, words: int, paired: bool) -> Rows | Refused | None:
    """The plan with the fewest parts that are safe; None where the shape does not suit it."""
    entry, codes = graph.values[op.input], graph.values[op.weight].codes
    plan = Rows(window_of(graph, op), len(codes), scheme, words, paired, 1, False)
    plan = replace(plan, window=_lane_window(op, plan.window, plan.lanes))
    if plan.row_pixels <= plan.window.padding[2] or plan.window.out_width * 2 <= plan.lanes:
        return None
    units = grouped(codes, scheme.group)
    if paired and not fits_half(units.reshape(len(units), -1), entry):
        chunks = _safe_chunks(units, entry)
        if chunks is None:
            reason = beyond(units.reshape(-1, scheme.group), entry, 0, 15)
            return Refused(f"{plan.variant}, two lanes a word", f"{reason}, or parts get too short")
        plan = replace(plan, chunks=chunks, wide=True)
    return plan if plan.fits else None


def _safe_chunks(units: NDArray[np.int64], entry: Value) -> int | None:
    """The fewest equal parts of a window row whose sums stay within int16, whatever the input."""
    _, _, run, group = units.shape
    for chunks in (c for c in range(1, run + 1) if run % c == 0 and run // c * group >= SHORTEST_PART):
        if fits_half(units.reshape(-1, run // chunks * group), entry):
            return chunks
    return None


def _lane_window(op: Convolution, window: Window, lanes: int) -> Window:
    """The window itself; pixels of a 1x1 convolution count as one long row, cut into rows of one column of lanes.

    The last short one overlaps the one before, which an addend that is overwritten forbids.
    """
    pixels = window.height * window.width
    if not window.is_pixel or window.stride != (1, 1) or pixels < lanes:
        return window
    if isinstance(op, Conv2dAdd) and pixels % lanes:
        return window
    rows = -(-pixels // lanes)
    return replace(window, height=rows, width=lanes, out_height=rows, out_width=lanes)


def _candidate(graph: QuantGraph, op: Convolution, plan: Rows, steps: DigitRequantize) -> Candidate:
    def make() -> Kernel:
        units = grouped(graph.values[op.weight].codes, plan.scheme.group)
        return rows_kernel(graph, op, plan, steps, packed_weights(units, plan.scheme), _proof(plan, steps))

    name = plan.variant + WITH_ADD if isinstance(op, Conv2dAdd) else plan.variant
    flash_bytes = plan.packed_bytes + steps.table.nbytes
    return Candidate(name, rows_cycles(plan, steps), flash_bytes, plan.scratch_bytes, make)


def _proof(plan: Rows, steps: DigitRequantize) -> str:
    sums = "sums fit int32"
    if plan.paired:
        sums = f"sums fit int16 in each of {plan.chunks} parts of a window row" if plan.wide else "sums fit int16"
    digits = steps.digits.shape[1]
    return f"{sums}; {digits} digits of the multiplier give every code"
