"""Ternary convolution by table lookup for the DSP extension: the only real gain of low bits in arithmetic there.

For 3 input channels of 4 pixels, a table holds all 27 combinations of their codes times {-1, 0, 1}, as four int16 in
two words; 3 weights of an output channel are one byte that says where in the table. One UXTAB, one LDRD and two
QADD16 replace 12 multiplications. Input rows are taken one after the other: the tables of one row serve every window
row that lies on it, so the scratch holds the tables of a single row and the sums of the output rows in progress.

The four lanes are output columns a quarter of the width apart: then the tables of a window column are also those of
the column beside it, one output position later.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Conv2d, Conv2dAdd, QuantGraph, Value
from qkd.targets.kernels.armv7e_m.cost import lookup_cycles, residual_cycles
from qkd.targets.kernels.armv7e_m.lookup_body import lookup_kernel
from qkd.targets.kernels.armv7e_m.lookup_geometry import (
    ENTRIES,
    ENTRIES_PER_FRACTION,
    GROUP,
    LANES,
    TILE_CHANNELS,
    Lookup,
)
from qkd.targets.kernels.bounds import beyond, fits_int16
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.epilogue import channel_table
from qkd.targets.kernels.make import variant_name
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel

POINTWISE_COLUMNS = 8


def ternary_groups(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Weights (O, KH, KW, C) as groups (O, KH, KW * groups, 3), filled with zeros."""
    out, height, width, channels = codes.shape
    filled = np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, -channels % GROUP)))
    return filled.reshape(out, height, width * filled.shape[-1] // GROUP, GROUP)


def lookup_indices(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Table entries (0 to 26) in the order of the kernel: [tile][window row][group][output channel of the tile]."""
    entries = ((groups + 1) * 3 ** np.arange(GROUP)).sum(axis=-1)
    out, height, run = entries.shape
    tiles = entries.reshape(out // TILE_CHANNELS, TILE_CHANNELS, height, run)
    return np.asarray(tiles.transpose(0, 2, 3, 1).ravel())


def pack_indices(indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pack 5 entries, 15 ternary weights, into 3 bytes: 1.6 bits a weight.

    The bytes are a fraction of 24 bits whose first five digits in base 27 are the entries: multiplying it by 27 gives
    one entry after the other above the point. 27**5 < 2**24, so such a fraction exists. One byte more is read.
    """
    padded = np.pad(indices, (0, -len(indices) % ENTRIES_PER_FRACTION)).reshape(-1, ENTRIES_PER_FRACTION)
    value = (padded * ENTRIES ** np.arange(ENTRIES_PER_FRACTION - 1, -1, -1)).sum(axis=1)
    fraction = -(-(value << 24) // ENTRIES**ENTRIES_PER_FRACTION)
    little_endian = fraction[:, None] >> np.array([0, 8, 16]) & 0xFF
    return np.append(little_endian.astype(np.uint8).ravel(), np.uint8(0))


def candidates(graph: QuantGraph, op: Conv2d | Conv2dAdd) -> Iterator[Offer]:
    """Lookup where weights are ternary and int16 sums are proved."""
    w, codes, entry = lane_window(window_of(graph, op)), graph.values[op.weight].codes, graph.values[op.input]
    ternary = np.abs(codes).max() <= 1 and len(codes) % TILE_CHANNELS == 0
    reached = w.kernel[0] >= w.stride[0] and w.kernel[1] >= w.stride[1]
    if not (ternary and reached and w.out_width >= LANES):
        return
    groups = ternary_groups(codes)
    chunks = safe_chunks(groups, entry)
    if chunks is None:
        yield Refused("lookup_int16", beyond(groups.reshape(-1, GROUP), entry, 0, 15))
    else:
        wide = not fits_int16(groups.reshape(len(groups), -1), entry)
        plan = Lookup(w, len(codes), chunks, wide)
        if plan.row_pixels > w.padding[2]:
            yield _candidate(graph, op, plan, groups)


def _candidate(graph: QuantGraph, op: Conv2d | Conv2dAdd, plan: Lookup, groups: NDArray[np.int64]) -> Candidate:
    safe = f"ternary; max|q| * sum|w| < 2**15 in each of {plan.chunks} parts of a window row"

    def make() -> Kernel:
        return lookup_kernel(graph, op, plan, pack_indices(lookup_indices(groups)), safe)

    entries = groups.size // GROUP
    weight_bytes = -(-entries // ENTRIES_PER_FRACTION) * 3 + 1
    flash_bytes = weight_bytes + channel_table(op.epilogue).nbytes
    cycles = lookup_cycles(plan) + residual_cycles(graph, op)
    return Candidate(variant_name(op, plan.variant), cycles, flash_bytes, plan.scratch_bytes, make)


def safe_chunks(groups: NDArray[np.int64], entry: Value) -> int | None:
    """The fewest equal parts of a window row whose sums stay within int16, whatever the input."""
    run = groups.shape[2]
    for chunks in (c for c in range(1, run + 1) if run % c == 0):
        if fits_int16(groups.reshape(-1, run // chunks * GROUP), entry):
            return chunks
    return None


def lane_window(window: Window) -> Window:
    """The window itself; pixels of a 1x1 convolution count as one long row, cut into short ones."""
    pixels = window.height * window.width
    if not window.is_pixel or window.stride != (1, 1) or pixels < LANES:
        return window
    width = min(POINTWISE_COLUMNS, pixels // LANES * LANES)
    rows = -(-pixels // width)
    return replace(window, height=rows, width=width, out_height=rows, out_width=width)
