"""The transforms of Winograd F(2x2, 3x3) and the sizes of their buffers: codes before the products, sums after."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkd.graph.fixed_point import Requantize
from qkd.targets.kernels.armv8_a.broadcast import LANES, block_channels
from qkd.targets.kernels.armv8_a.neon import hide, shadd, shsub, st4
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, ceil_to, padded_height, padded_width
from qkd.targets.kernels.armv8_a.requantize import load_channels, to_codes
from qkd.targets.kernels.armv8_a.winograd_proof import CENTRE_POSITION, POSITIONS, Proof
from qkd.targets.kernels.window import Window
from qkd.tir.tir import Expr, Pointer, cast, constant, high_half, let, loop, low_half, minimum, widen

QUAD = 4  # tiles side by side that are transformed together
QUAD_WIDTH = 2 * QUAD
STRIP_TILES = 16  # enough for every row of weights to be used from the cache
DIFFERENCES = ((0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1))
"""B^T d in one direction: element a plus or minus element b."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Sizes of one convolution's steps; a strip is `strip_rows` rows of tiles."""

    window: Window
    zero_point: int
    proof: Proof
    channels_out: int
    block: int
    """Output channels of one product: two vectors of int8, or one."""
    tile_rows: int
    quads: int
    """Groups of four tiles in a row."""
    strip_rows: int
    by_element: bool
    """Transformed codes and weights are int16, [tile][channel], for `armv8_a_elements`."""

    @property
    def tiles(self) -> int:
        """Tiles of a strip."""
        return self.strip_rows * self.quads * QUAD

    @property
    def line(self) -> int:
        """Bytes of a padded row."""
        return padded_width(self.window) * self.window.channels

    @property
    def sums_bytes(self) -> int:
        """Bytes of a strip's products with one block of channels, [group][position][tile][channel] of int16."""
        return self.proof.groups * POSITIONS * self.tiles * self.block * 2

    @property
    def input_bytes(self) -> int:
        """Bytes of a strip's transformed input, [position][quad][channel / 4][tile of the quad][4 channels]."""
        return POSITIONS * self.tiles * self.window.channels * (2 if self.by_element else 1)

    @property
    def padded_start(self) -> int:
        """Where the padded input begins: after the sums and the transformed input."""
        return self.sums_bytes + self.input_bytes

    @property
    def scratch_bytes(self) -> int:
        """All of it."""
        return self.padded_start + ceil_to(padded_height(self.window) * self.line, VECTOR_BYTES)


def plan_of(window: Window, zero_point: int, channels_out: int, proof: Proof, by_element: bool) -> Plan:
    """Choose the block of channels and the height of a strip."""
    rows, quads = -(-window.out_height // 2), -(-window.out_width // QUAD_WIDTH)
    block = block_channels(channels_out)
    strip = min(rows, max(1, STRIP_TILES // (quads * QUAD)))
    return Plan(window, zero_point, proof, channels_out, block, rows, quads, strip, by_element)


def transform_input(scratch: Pointer, words: Pointer, plan: Plan, first: Expr) -> None:
    """V = B^T d B of every tile of a strip, in int8 or int16: proved to fit. Four tiles share ten columns."""
    window, columns = plan.window, 2 * QUAD + 2
    with loop(plan.strip_rows) as row, loop(plan.quads) as quad, loop(window.channels // LANES) as part:
        top, left = _start(first + row, 2, window.out_height), _start(quad, QUAD_WIDTH, window.out_width)
        source = hide(top * plan.line + left * window.channels + part * LANES + plan.padded_start)
        number = row * plan.quads + quad
        for i, (a, b, sign) in enumerate(DIFFERENCES):
            rows = [
                [let(scratch.load(source + (k * plan.line + j * window.channels), LANES)) for j in range(columns)]
                for k in (a, b)
            ]
            if plan.by_element:
                _store_words(words, plan, number, part, i, rows, sign)
            else:
                line = [_combine(x, y, sign) for x, y in zip(*rows, strict=True)]
                target = let(number * (QUAD * window.channels) + part * (LANES * QUAD) + plan.sums_bytes)
                for j, (c, d, sign_1d) in enumerate(DIFFERENCES):
                    values = [_combine(line[2 * t + c], line[2 * t + d], sign_1d) for t in range(QUAD)]
                    values = [_centred(v, plan, 4 * i + j) for v in values]
                    st4(scratch, target + (4 * i + j) * plan.tiles * window.channels, values)


def _store_words(
    words: Pointer, plan: Plan, quad: Expr, part: Expr, i: int, rows: Sequence[Sequence[Expr]], sign: int
) -> None:
    """Both directions in int16: SADDL and SSUBL, then ADD and SUB."""
    at = let((quad * QUAD) * plan.window.channels + part * LANES + plan.sums_bytes // 2)
    for h, half in enumerate((low_half, high_half)):
        line = [_combine(cast(half(x), "int16"), cast(half(y), "int16"), sign) for x, y in zip(*rows, strict=True)]
        for j, (c, d, sign_1d) in enumerate(DIFFERENCES):
            for tile in range(QUAD):
                place = ((4 * i + j) * plan.tiles + tile) * plan.window.channels + 8 * h
                value = _combine(line[2 * tile + c], line[2 * tile + d], sign_1d)
                words[at + place] = _centred(value, plan, 4 * i + j)


def _start(number: Expr, size: int, count: int) -> Expr:
    """First output of a tile or quad; the last one overlaps the one before where `size` does not divide `count`."""
    return number * size if count % size == 0 else let(minimum(number * size, count - size))


def _combine(a: Expr, b: Expr, sign: int) -> Expr:
    return let(a + b if sign > 0 else a - b)


def _centred(value: Expr, plan: Plan, position: int) -> Expr:
    """Take the centre off every code of a tile: only one element of B^T d B changes."""
    if position != CENTRE_POSITION or plan.proof.centre == 0:
        return value
    lane = np.int16 if plan.by_element else np.int8
    return let(value - constant(int(np.int64(4 * plan.proof.centre).astype(lane)), value.dtype))


def transform_output(
    sums: Pointer, y: Pointer, table: Pointer, totals: Pointer | None, plan: Plan, rq: Requantize, first: Expr,
    block: Expr,
) -> None:  # fmt: skip
    """The outputs of M by halving adds in int16, then the epilogue, for sixteen channels of every tile of a strip."""
    window, parts = plan.window, plan.block // LANES
    with loop(parts) as part:
        channels = load_channels(table, block * parts + part, LANES)
        channel = let((block * parts + part) * LANES)
        with loop(plan.strip_rows) as row, loop(plan.quads) as quad, loop(QUAD) as tile:
            source = let(((row * plan.quads + quad) * QUAD + tile) * plan.block + part * LANES)
            top, left = _start(first + row, 2, window.out_height), _start(quad, QUAD_WIDTH, window.out_width)
            target = let((top * window.out_width + left + tile * 2) * plan.channels_out + channel)
            halves = [_outputs(sums, source + 8 * half, plan) for half in range(2)]
            for k in range(4):
                accs = [v for half in halves for v in half[k]]
                if totals is not None:
                    accs = [let(acc + totals.load(channel + 4 * i, 4)) for i, acc in enumerate(accs)]
                pixel = (k // 2 * window.out_width + k % 2) * plan.channels_out
                y[target + pixel] = to_codes(accs, rq, channels)


def _outputs(sums: Pointer, source: Expr, plan: Plan) -> list[list[Expr]]:
    """The four outputs of a tile for eight channels, each as two int32x4; groups are added in int32."""
    totals: list[list[Expr]] = []
    for group in range(plan.proof.groups):
        at = source + group * (POSITIONS * plan.tiles * plan.block)
        m = [let(sums.load(at + p * (plan.tiles * plan.block), 8)) for p in range(POSITIONS)]
        columns = [_outputs_1d([m[4 * i + j] for i in range(4)]) for j in range(4)]
        outputs = [y for k in range(2) for y in _outputs_1d([columns[j][k] for j in range(4)])]
        wide = [[widen(half(y)) for half in (low_half, high_half)] for y in outputs]
        totals = [_sums(*pair) for pair in zip(totals, wide, strict=True)] if totals else wide
    return totals


def _sums(a: Sequence[Expr], b: Sequence[Expr]) -> list[Expr]:
    return [let(x + y) for x, y in zip(a, b, strict=True)]


def _outputs_1d(m: Sequence[Expr]) -> list[Expr]:
    """Both outputs of one direction."""
    return [let(m[0] + shadd(m[1], m[2])), let(shsub(m[1], m[2]) - m[3])]
