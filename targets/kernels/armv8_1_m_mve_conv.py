"""Convolutions and fully connected layers on MVE: patches that lie in one run, multiplied by tiles of weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qkd.fixed_point import BiasAdd
from qkd.graph import Conv2d, FullyConnected, QuantGraph, accumulator_bound
from qkd.kernel import Constant, Kernel
from qkd.targets.kernels.armv8_1_m_mve_patches import Patches
from qkd.targets.kernels.armv8_1_m_mve_products import PassLayout, Read, multiply_pass, pack_passes, vectors_of
from qkd.targets.kernels.armv8_1_m_mve_vectors import LANES, PRELUDE, QUAD, Rescale, requantize_quad, rescale
from qkd.targets.kernels.epilogue import align
from qkd.targets.kernels.generic import make_kernel, window_of
from qkd.tir import Expr, Pointer, constant, lane, let, loop, minimum, shuffle, when

TILES = ((3, 2), (2, 2), (1, 4))
"""Pixels and channels of a pass; six sums take all the even core registers that loops leave."""


@dataclass(frozen=True)
class Logits:
    """A BiasAdd for accumulators that carry a factor; `table` is [quad][4] int32."""

    table: Constant
    shift_left: int


def candidates(graph: QuantGraph, op: Conv2d | FullyConnected) -> Iterable[Kernel]:
    """The kernel with packed weights, then the one with a byte a weight, where the factor of packing is not safe."""
    for bits in sorted({packed_bits(graph, op), 8}):
        finish = _finish(graph, op, bits)
        if finish is not None:
            yield _kernel(graph, op, bits, finish)


def packed_bits(graph: QuantGraph, op: Conv2d | FullyConnected) -> int:
    """The fewest bits that hold all the weights of a layer."""
    codes = graph.values[op.weight].codes
    return next(b for b in (2, 4, 8) if -(1 << (b - 1)) <= codes.min() and codes.max() < 1 << (b - 1))


def _finish(graph: QuantGraph, op: Conv2d | FullyConnected, bits: int) -> Rescale | Logits | None:
    weight, entry = graph.values[op.weight], graph.values[op.input]
    bound, scale_bits = accumulator_bound(weight.codes, entry.qmin, entry.qmax), 8 - bits
    if not isinstance(op.epilogue, BiasAdd):
        return rescale(op.epilogue, weight.shape[0], bound, scale_bits)
    if bound << scale_bits >= 2**31:
        return None
    offsets = np.array(op.epilogue.offset, np.int32)
    padded = np.pad(offsets, (0, -len(offsets) % QUAD)).reshape(-1, QUAD)
    return Logits(padded, op.epilogue.pre_shift - scale_bits)


def _kernel(graph: QuantGraph, op: Conv2d | FullyConnected, bits: int, finish: Rescale | Logits) -> Kernel:
    weight = graph.values[op.weight]
    channels = weight.shape[0]
    patches = Patches(window_of(graph, op), graph.values[op.input].qparams.zero_point)
    rows = patches.order(weight.codes.reshape(channels, *patches.window.kernel, -1))
    vectors = vectors_of(patches.taps)
    tile, width = min(TILES, key=lambda t: _loads_and_products(patches.pixels, *t))
    layout = PassLayout(bits, width, vectors)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, strip: Pointer | None = None) -> None:
        codes = x if strip is None else strip
        if strip is not None:
            patches.begin(strip)
        with loop(patches.rows) as row:
            if strip is not None:
                patches.advance(x, strip, row)
            with loop(-(-patches.pixels // tile)) as number:
                # The last tile begins early enough to be whole, and computes some pixels a second time.
                first = let(minimum(number * tile, patches.pixels - tile))
                reads = [_reader(codes, let(patches.start(row, first + i))) for i in range(tile)]
                with loop(-(-channels // QUAD)) as quad:
                    sums = _quad(weights, quad, layout, reads)
                    results = _finished(sums, table, quad, finish)
                    for i, result in enumerate(results):
                        pixel = row * patches.pixels + first + i
                        _store(y, pixel * channels + quad * QUAD, result, quad, channels)

    return make_kernel(
        graph, op, body, (pack_passes(rows, layout), finish.table), patches.scratch_bytes,
        variant=f"mve_w{bits}_{tile}x{width}", why=_why(bits), prelude=PRELUDE,
    )  # fmt: skip


def _loads_and_products(pixels: int, tile: int, width: int) -> float:
    """Instructions for 16 codes of all pixels and one channel; infinite where the row is shorter than the tile."""
    if pixels < tile:
        return float("inf")
    return -(-pixels // tile) * (tile + width + tile * width) / width


def _reader(codes: Pointer, start: Expr) -> Read:
    return lambda k: codes.load(start + k, LANES)


def _quad(weights: Pointer, quad: Expr, layout: PassLayout, reads: Sequence[Read]) -> list[Expr]:
    """Sums of four channels as a vector for each patch."""
    passes = QUAD // layout.width
    sums: list[list[Expr]] = []
    for part in range(passes):
        start = let((quad * passes + part) * layout.size_bytes)
        sums += multiply_pass(weights, start, layout, reads)
    return [let(shuffle([row[i] for row in sums], range(QUAD))) for i in range(len(reads))]


def _finished(sums: Sequence[Expr], table: Pointer, quad: Expr, finish: Rescale | Logits) -> list[Expr]:
    if isinstance(finish, Logits):
        offset = let(table.load(quad * QUAD, QUAD))
        return [align(acc, finish.shift_left) + offset for acc in sums]
    multiplier = let(table.load(quad * (2 * QUAD), QUAD))
    offset = let(table.load(quad * (2 * QUAD) + QUAD, QUAD))
    return [requantize_quad(acc, multiplier, offset, finish) for acc in sums]


def _store(y: Pointer, at: Expr, result: Expr, quad: Expr, channels: int) -> None:
    """Store four channels of a pixel; of the last quad only those that exist."""
    if channels % QUAD == 0:
        y[at] = result
        return
    held = let(result)
    for i in range(QUAD):
        with when(quad * QUAD + constant(i) < channels):
            y[at + i] = lane(held, i)


def _why(bits: int) -> str:
    if bits == 8:
        return "VMLADAVA multiplies 16 codes at a time; the accumulator's bound is below 2**31"
    return f"VMLADAVA multiplies 16 codes at a time; weights times {1 << (8 - bits)} keep the bound below 2**31"
