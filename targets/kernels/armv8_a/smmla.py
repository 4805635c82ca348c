"""Convolution with the matrix product of Armv8.6: SMMLA takes 8 taps of two pixels and two output channels."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Conv2d, QuantGraph
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.neon import forget_loads, hide, smmla
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, Patches, patches_of, tiles
from qkd.targets.kernels.armv8_a.requantize import block_table, load_channels, to_codes
from qkd.targets.kernels.armv8_a.weights import channel_blocks, pack_vectors, unpack, unpacked_bytes
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import (
    Expr,
    Operand,
    Pointer,
    Register,
    constant,
    high_half,
    let,
    loop,
    low_half,
    minimum,
    nounroll,
    shuffle,
)

PIXELS = 8
CHANNELS = 8
DEPTH = 8  # taps of one SMMLA


def candidates(graph: QuantGraph, op: Conv2d) -> Iterable[Kernel]:
    """The kernel of a convolution with eight output channels and eight pixels in a row; int32 needs no proof."""
    entry, weight = graph.values[op.input], graph.values[op.weight]
    patches = patches_of(window_of(graph, op), entry.qparams.zero_point)
    if weight.shape[0] >= CHANNELS and patches.columns >= PIXELS:
        yield _kernel(graph, op, Product(patches), patches.arrange(weight.codes))


def _kernel(graph: QuantGraph, op: Conv2d, product: "Product", rows: NDArray[np.int8]) -> Kernel:
    bits, patches = graph.values[op.weight].bits, product.patches
    blocks = channel_blocks(len(rows), CHANNELS)
    depths = np.stack([rows[list(b)] for b in blocks]).reshape(len(blocks), CHANNELS, -1, DEPTH)
    vectors = np.ascontiguousarray(depths.transpose(0, 2, 1, 3)).reshape(len(blocks), -1, CHANNELS // 2, VECTOR_BYTES)
    packed = pack_vectors(vectors, bits)
    unpacked = unpacked_bytes(vectors.shape[1], CHANNELS // 2, bits)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer | None) -> None:
        memory, origin = patches.prepare(x, scratch)
        with loop(len(blocks)) as block:
            source, start = weights, let(block * (patches.taps * CHANNELS))
            if scratch is not None and unpacked:
                unpack(weights, block, packed.shape, bits, scratch, patches.scratch_bytes)
                source, start = scratch, constant(patches.scratch_bytes)
            first = let(minimum(block * CHANNELS, len(rows) - CHANNELS))
            with loop(patches.rows) as row, tiles(patches.columns, PIXELS) as column:
                forget_loads()
                at = let(row * patches.row_stride + column * patches.pixel_stride + origin)
                accs = product.accumulate(memory, at, source, start)
                result = let((row * patches.columns + column) * len(rows) + first)
                _store(y, result, len(rows), accs, op, table, block)

    constants = (packed, block_table(op.epilogue, blocks))
    why = "the matrix product adds in int32"
    return build_kernel(graph, op, "smmla_8x8", why, body, constants, patches.scratch_bytes + unpacked)


def _store(
    y: Pointer, start: Expr, stride: int, accs: list[list[Expr]], op: Conv2d, table: Pointer, block: Operand
) -> None:
    """Turn 2x2 matrices into rows of channels and requantize two pixels at a time."""
    channels = load_channels(table, block, CHANNELS)
    for pair, matrices in enumerate(accs):
        rows = [
            let(shuffle(matrices[2 * v : 2 * v + 2], lanes))
            for lanes in ((0, 1, 4, 5), (2, 3, 6, 7))
            for v in range(CHANNELS // 4)
        ]
        codes = let(to_codes(rows, op.epilogue, channels))
        for pixel, half in enumerate((low_half, high_half)):
            y[start + (2 * pair + pixel) * stride] = half(codes)


@dataclass(frozen=True)
class Product:
    """Products of PIXELS patches and CHANNELS rows of weights."""

    patches: Patches

    def accumulate(self, memory: Pointer, at: Expr, weights: Pointer, start: Expr) -> list[list[Expr]]:
        """For each pair of pixels and pair of channels, 2x2 sums.

        The taps side by side come last, so that the pixels which they share are loaded and paired once.
        """
        accs = [[Register("int32x4") for _ in range(CHANNELS // 2)] for _ in range(PIXELS // 2)]
        taps, parts = self.patches.side_by_side()
        with loop(self.patches.segments) as segment, loop(parts) as part:
            nounroll()
            patch = let(segment * self.patches.segment_stride + part * VECTOR_BYTES + at)
            chunk = segment * (taps * parts) + part
            row = hide(chunk * (VECTOR_BYTES * CHANNELS) + start)
            for tap in range(taps):
                step = tap * parts * VECTOR_BYTES
                self._add_chunk(accs, memory, patch + step, weights, row + step * CHANNELS)
        return [[acc.value for acc in pair] for pair in accs]

    def _add_chunk(self, accs: list[list[Register]], memory: Pointer, patch: Expr, weights: Pointer, row: Expr) -> None:
        """Sixteen taps: two matrices of eight."""
        stride = self.patches.pixel_stride
        codes = [let(memory.load(patch + pixel * stride, VECTOR_BYTES)) for pixel in range(PIXELS)]
        for half, lanes in enumerate((tuple(range(8)), tuple(range(8, 16)))):
            pairs = [
                let(shuffle(codes[i : i + 2], lanes + tuple(lane + 16 for lane in lanes))) for i in range(0, PIXELS, 2)
            ]
            for j in range(CHANNELS // 2):
                matrix = let(weights.load(row + (half * (CHANNELS // 2) + j) * VECTOR_BYTES, VECTOR_BYTES))
                for i, pair in enumerate(pairs):
                    accs[i][j].value = smmla(accs[i][j].value, pair, matrix)
