"""Convolution and matrix product with the dot product of Armv8.2: output channels in the lanes, codes by element."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import BiasAdd, Requantize
from qkd.graph.graph import Conv2d, FullyConnected, QuantGraph
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.chains import UNROLLED_CHUNKS, largest_divisor
from qkd.targets.kernels.armv8_a.neon import forget_loads, hide, sdot_by_element, store_word
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, Patches, patches_of, tiles
from qkd.targets.kernels.armv8_a.requantize import LANES, block_table, load_channels, to_codes, to_logits
from qkd.targets.kernels.armv8_a.weights import channel_blocks, pack_vectors, unpack, unpacked_bytes
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Operand, Pointer, Register, constant, let, loop, minimum, nounroll

PIXELS = 4
BLOCKS = (16, 8, 4)
DOT = 4  # products of a lane


def candidates(graph: QuantGraph, op: Conv2d | FullyConnected) -> Iterable[Kernel]:
    """The kernel of a convolution or matrix product of four output channels or more; int32 needs no proof."""
    entry, weight = graph.values[op.input], graph.values[op.weight]
    patches = patches_of(window_of(graph, op), entry.qparams.zero_point)
    size = next((size for size in BLOCKS if size <= weight.shape[0]), None)
    if size is not None:
        product = Product(patches, min(PIXELS, patches.columns), size)
        yield _kernel(graph, op, product, patches.arrange(weight.codes))


def _kernel(graph: QuantGraph, op: Conv2d | FullyConnected, product: "Product", rows: NDArray[np.int8]) -> Kernel:
    bits, patches, size = graph.values[op.weight].bits, product.patches, product.channels
    blocks = channel_blocks(len(rows), size)
    words = np.stack([rows[list(b)] for b in blocks]).reshape(len(blocks), size, patches.taps // DOT, DOT)
    vectors = np.ascontiguousarray(words.transpose(0, 2, 1, 3)).reshape(len(blocks), patches.taps // DOT, -1, 16)
    packed = pack_vectors(vectors, bits)
    unpacked = unpacked_bytes(patches.taps // DOT, size // LANES, bits)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer | None) -> None:
        memory, origin = patches.prepare(x, scratch)
        with loop(len(blocks)) as block:
            source, start = weights, let(block * (patches.taps * size))
            if scratch is not None and unpacked:
                unpack(weights, block, packed.shape, bits, scratch, patches.scratch_bytes)
                source, start = scratch, constant(patches.scratch_bytes)
            first = let(minimum(block * size, len(rows) - size))
            with loop(patches.rows) as row, tiles(patches.columns, product.pixels) as column:
                forget_loads()
                at = let(row * patches.row_stride + column * patches.pixel_stride + origin)
                accs = product.accumulate(memory, at, source, start)
                result = let((row * patches.columns + column) * len(rows) + first)
                store_rows(y, result, len(rows), accs, op.epilogue, table, block)

    constants = (packed, block_table(op.epilogue, blocks))
    why = "the dot product adds in int32"
    return build_kernel(graph, op, f"sdot_{product.pixels}x{size}", why, body, constants,
                        patches.scratch_bytes + unpacked)  # fmt: skip


def store_rows(
    y: Pointer, start: Expr, stride: int, accs: list[list[Expr]], epilogue: Requantize | BiasAdd,
    table: Pointer, block: Operand,
) -> None:  # fmt: skip
    """Finish a block of channels, in vectors of four, of every pixel."""
    channels = load_channels(table, block, LANES * len(accs[0]))
    for i, row in enumerate(accs):
        at = start + i * stride
        if isinstance(epilogue, BiasAdd):
            for v, acc in enumerate(row):
                y[at + v * LANES] = to_logits(acc, epilogue, channels.offsets[v])
        elif len(row) == 1:  # two vectors are the least that a narrowing takes
            store_word(y, at, to_codes(row * 2, epilogue, channels), 0)
        else:
            y[at] = to_codes(row, epilogue, channels)


@dataclass(frozen=True)
class Product:
    """Products of `pixels` patches and a block of `channels`."""

    patches: Patches
    pixels: int
    channels: int

    def accumulate(self, memory: Pointer, at: Expr, weights: Pointer, start: Expr) -> list[list[Expr]]:
        """For each pixel, the channels in vectors of four."""
        accs = [[Register("int32x4") for _ in range(self.channels // LANES)] for _ in range(self.pixels)]
        chunks = self.patches.segment_bytes // VECTOR_BYTES
        part = largest_divisor(chunks, UNROLLED_CHUNKS)
        with loop(self.patches.segments) as segment, loop(chunks // part) as number:
            nounroll()
            chunk = number * part
            patch = let(segment * self.patches.segment_stride + chunk * VECTOR_BYTES + at)
            row = hide((segment * chunks + chunk) * (VECTOR_BYTES * self.channels) + start)
            for i in range(part):
                self._add_chunk(accs, memory, patch + i * VECTOR_BYTES, weights, row + i * VECTOR_BYTES * self.channels)
        return [[acc.value for acc in pixel] for pixel in accs]

    def _add_chunk(self, accs: list[list[Register]], memory: Pointer, patch: Expr, weights: Pointer, row: Expr) -> None:
        """Sixteen taps."""
        codes = [let(memory.load(patch + p * self.patches.pixel_stride, VECTOR_BYTES)) for p in range(self.pixels)]
        for word in range(VECTOR_BYTES // DOT):
            at = row + word * (DOT * self.channels)
            vectors = [let(weights.load(at + v * VECTOR_BYTES, VECTOR_BYTES)) for v in range(self.channels // LANES)]
            for pixel in range(self.pixels):
                for acc, vector in zip(accs[pixel], vectors, strict=True):
                    acc.value = sdot_by_element(acc.value, vector, codes[pixel], word)
