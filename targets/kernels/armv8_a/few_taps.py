"""Convolution of few taps a row for in-order cores, as in the first layer: SMLAL by element, four channels a vector.

The codes under a tile of pixels in one row lie side by side, so a few vectors of int16 hold them all; nothing is
gathered and no lanes are summed. int32 needs no proof.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qkd.graph.graph import Conv2d, QuantGraph
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.elements import DEPTH, widen_bytes
from qkd.targets.kernels.armv8_a.neon import forget_loads, hide, smull
from qkd.targets.kernels.armv8_a.patches import (
    VECTOR_BYTES,
    ceil_to,
    pad_input,
    padded_height,
    padded_width,
    tiles,
)
from qkd.targets.kernels.armv8_a.requantize import block_table
from qkd.targets.kernels.armv8_a.sdot import store_rows
from qkd.targets.kernels.armv8_a.weights import channel_blocks
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, Register, constant, high_half, let, loop, low_half, minimum, nounroll, shuffle

CHANNELS = 16
PIXELS = (4, 5)
MOST_TAPS = 16  # a row; more are faster in the lanes


def candidates(graph: QuantGraph, op: Conv2d) -> Iterable[Kernel]:
    """The kernel of a convolution whose window has at most sixteen taps a row, and sixteen output channels or more."""
    window = window_of(graph, op)
    channels = graph.values[op.weight].shape[0]
    few = window.kernel[1] * window.channels <= MOST_TAPS and window.taps > 1
    if few and channels >= CHANNELS and window.out_width >= min(PIXELS):
        pixels = next((p for p in PIXELS if window.out_width % p == 0), min(PIXELS))
        yield _kernel(graph, op, Plan(window, pixels))


@dataclass(frozen=True)
class Plan:
    """Sizes of one convolution."""

    window: Window
    pixels: int

    @property
    def row_taps(self) -> int:
        """Taps of one row of the window."""
        return self.window.kernel[1] * self.window.channels

    @property
    def stride(self) -> int:
        """Codes from a pixel to the next."""
        return self.window.stride[1] * self.window.channels

    @property
    def codes(self) -> int:
        """Codes under a tile in one row."""
        return (self.pixels - 1) * self.stride + self.row_taps

    @property
    def line(self) -> int:
        """Codes of a padded row."""
        return padded_width(self.window) * self.window.channels

    @property
    def padded_codes(self) -> int:
        """Codes of the padded input, in whole vectors, and one vector that the last tile may read."""
        return ceil_to(padded_height(self.window) * self.line, VECTOR_BYTES) + VECTOR_BYTES


def _kernel(graph: QuantGraph, op: Conv2d, plan: Plan) -> Kernel:
    window, codes = plan.window, graph.values[op.weight].codes
    blocks = channel_blocks(len(codes), CHANNELS)
    rows = codes.reshape(len(codes), -1)
    weights = np.stack([rows[list(b)].T for b in blocks]).astype(np.int16)
    zero_point = graph.values[op.input].qparams.zero_point

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer) -> None:
        pad_input(x, scratch, window, zero_point, 2 * plan.padded_codes)
        words = scratch.view("int16")
        widen_bytes(scratch, 2 * plan.padded_codes, plan.padded_codes, words, 0)
        with loop(len(blocks)) as block:
            first = let(minimum(block * CHANNELS, len(rows) - CHANNELS))
            with loop(window.out_height) as row, tiles(window.out_width, plan.pixels) as column:
                forget_loads()
                at = let(row * (window.stride[0] * plan.line) + column * plan.stride)
                accs = _accumulate(words, at, weights, block * (rows.shape[1] * CHANNELS), plan)
                result = let((row * window.out_width + column) * len(rows) + first)
                store_rows(y, result, len(rows), accs, op.epilogue, table, block)

    constants = (weights, block_table(op.epilogue, blocks))
    why = "adds in int32; few taps a row leave too little to sum in lanes"
    return build_kernel(graph, op, "few_taps", why, body, constants, 3 * plan.padded_codes)


def _accumulate(words: Pointer, at: Expr, weights: Pointer, start: Expr, plan: Plan) -> list[list[Expr]]:
    """For each pixel, the channels in vectors of four."""
    accs: list[list[Register]] = []

    def visit(line: Expr) -> None:
        place = hide(line * plan.line + at)
        row = hide(line * (plan.row_taps * CHANNELS) + start)
        vectors = [let(words.load(place + v, DEPTH)) for v in range(0, plan.codes, DEPTH)]
        for tap in range(plan.row_taps):
            _add_tap(accs, vectors, weights, row + tap * CHANNELS, tap, plan)

    visit(constant(0))
    with loop(plan.window.kernel[0] - 1) as line:
        nounroll()
        visit(line + 1)
    return [[acc.value for acc in pixel] for pixel in accs]


def _add_tap(
    accs: list[list[Register]], vectors: list[Expr], weights: Pointer, row: Expr, tap: int, plan: Plan
) -> None:
    """The first products need no zeros to add to."""
    channels = [let(weights.load(row + v, DEPTH)) for v in range(0, CHANNELS, DEPTH)]
    quarters = [half(vector) for vector in channels for half in (low_half, high_half)]
    is_first = not accs
    for pixel in range(plan.pixels):
        number = pixel * plan.stride + tap
        element = shuffle((vectors[number // DEPTH],), (number % DEPTH,) * 4)
        if is_first:
            accs.append([Register("int32x4", smull(quarter, element)) for quarter in quarters])
            continue
        for acc, quarter in zip(accs[pixel], quarters, strict=True):
            acc.value = acc.value + smull(quarter, element)
