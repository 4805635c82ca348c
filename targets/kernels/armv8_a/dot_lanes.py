"""Convolution and matrix product for Armv8.0: taps in the lanes, SMLAL into int16 for as long as the weights allow it.

Small weights save the widening to int32; int8 needs it after each or every second chunk: SMULL, SMLAL2, SADALP for 16
products. The lanes of four channels are summed at the end, which leaves four pixels as four vectors of channels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import BiasAdd, Requantize
from qkd.graph.graph import Conv2d, FullyConnected, QuantGraph
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.chains import SHORT_CHAIN, UNROLLED_CHUNKS, Chain, largest_divisor, longest_chains
from qkd.targets.kernels.armv8_a.neon import forget_loads, multiply_add, pin, saddlp, store_word, sum_lanes
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, Patches, patches_of, tiles
from qkd.targets.kernels.armv8_a.requantize import Channels, block_table, load_channels, to_codes, to_logits
from qkd.targets.kernels.armv8_a.weights import channel_blocks, pack_vectors, unpack, unpacked_bytes
from qkd.targets.kernels.candidate import Refused
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, Register, constant, let, loop, minimum, nounroll

PIXELS = 4
CHANNELS = 4


def candidates(graph: QuantGraph, op: Conv2d | FullyConnected) -> Iterator[Kernel | Refused]:
    """The kernel of a convolution or matrix product, where one chunk is safe and four channels exist."""
    entry, weight = graph.values[op.input], graph.values[op.weight]
    patches = patches_of(window_of(graph, op), entry.qparams.zero_point)
    rows = patches.arrange(weight.codes)
    chains = longest_chains(rows, max(abs(entry.qmin), abs(entry.qmax)), patches.segments)
    if chains is None:
        yield Refused("dot_lanes", "two products of an int16 lane do not fit it")
    elif len(rows) >= CHANNELS:
        yield _kernel(graph, op, Product(patches, chains, min(PIXELS, patches.columns)), rows)


def _kernel(graph: QuantGraph, op: Conv2d | FullyConnected, product: "Product", rows: NDArray[np.int8]) -> Kernel:
    bits, patches = graph.values[op.weight].bits, product.patches
    blocks = channel_blocks(len(rows), CHANNELS)
    chunks = patches.taps // VECTOR_BYTES
    vectors = np.stack([rows[list(b)] for b in blocks]).reshape(len(blocks), CHANNELS, chunks, VECTOR_BYTES)
    packed = pack_vectors(np.ascontiguousarray(vectors.transpose(0, 2, 1, 3)), bits)
    unpacked = unpacked_bytes(chunks, CHANNELS, bits)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer | None) -> None:
        memory, origin = patches.prepare(x, scratch)
        with loop(len(blocks)) as block:
            source, start = weights, let(block * (chunks * CHANNELS * VECTOR_BYTES))
            if scratch is not None and unpacked:
                unpack(weights, block, packed.shape, bits, scratch, patches.scratch_bytes)
                source, start = scratch, constant(patches.scratch_bytes)
            channels = load_channels(table, block, CHANNELS)
            first = let(minimum(block * CHANNELS, len(rows) - CHANNELS))
            with loop(patches.rows) as row, tiles(patches.columns, product.pixels) as column:
                forget_loads()
                at = let(row * patches.row_stride + column * patches.pixel_stride + origin)
                accs = product.accumulate(memory, at, source, start)
                result = let((row * patches.columns + column) * len(rows) + first)
                store_tile(y, result, len(rows), accs, op.epilogue, channels)

    longest = max(chain.segments * chain.chunks for chain in product.chains)
    why = f"the weights prove that {longest} of {chunks} chunks of 16 taps fit int16 lanes"
    constants = (packed, block_table(op.epilogue, blocks))
    return build_kernel(graph, op, f"dot_lanes_{longest}", why, body, constants, patches.scratch_bytes + unpacked)


def store_tile(
    y: Pointer, start: Expr, pixel_stride: int, accs: list[Expr], epilogue: Requantize | BiasAdd, channels: Channels
) -> None:
    """Finish a tile of one int32x4 of channels a pixel."""
    if isinstance(epilogue, BiasAdd):
        for i, acc in enumerate(accs):
            y[start + i * pixel_stride] = to_logits(acc, epilogue, channels.offsets[0])
        return
    whole = 2 if len(accs) <= 2 else 4  # vectors that a narrowing takes; the spare ones are dropped
    codes = let(to_codes((accs * whole)[:whole], epilogue, channels))
    for i in range(len(accs)):
        store_word(y, start + i * pixel_stride, codes, i)


@dataclass(frozen=True)
class Product:
    """Products of `pixels` patches and CHANNELS rows of weights."""

    patches: Patches
    chains: tuple[Chain, ...]
    pixels: int

    @property
    def _segment_chunks(self) -> int:
        return self.patches.segment_bytes // VECTOR_BYTES

    def accumulate(self, memory: Pointer, at: Expr, weights: Pointer, start: Expr) -> list[Expr]:
        """One int32x4 of channels a pixel."""
        if self.chains[0].segments * self.chains[0].chunks <= SHORT_CHAIN:
            return self._accumulate_short(memory, at, weights, start)
        totals = self._accumulate_chain(memory, at, weights, start, self.chains[0])
        for chain in self.chains[1:]:
            more = self._accumulate_chain(memory, at, weights, start, chain)
            totals = [let(total + part) for total, part in zip(totals, more, strict=True)]
        return totals

    def _accumulate_chain(self, memory: Pointer, at: Expr, weights: Pointer, start: Expr, chain: Chain) -> list[Expr]:
        """Keep a vector of int16 for each pixel and channel; widen and sum them at the end of the chain."""
        accs = [[Register("int16x8") for _ in range(CHANNELS)] for _ in range(self.pixels)]

        def visit(patch: Expr, row: Expr, chunks: int) -> None:
            for chunk in range(chunks):
                codes = self._codes(memory, patch, chunk)
                for channel in range(CHANNELS):
                    weight = let(self._weight(weights, row, chunk, channel))
                    for pixel in range(self.pixels):
                        acc = accs[pixel][channel]
                        acc.value = multiply_add(acc.value, codes[pixel], weight)

        self._visit(at, start, chain, visit)
        return [let(sum_lanes([saddlp(acc.value) for acc in pixel])) for pixel in accs]

    def _accumulate_short(self, memory: Pointer, at: Expr, weights: Pointer, start: Expr) -> list[Expr]:
        """Widen every chain at once: SADALP into an int32x4 for each pixel and channel."""
        accs = [[Register("int32x4") for _ in range(CHANNELS)] for _ in range(self.pixels)]
        step = self.chains[0].chunks

        def visit(patch: Expr, row: Expr, chunks: int) -> None:
            for first in range(0, chunks, step):
                numbers = range(first, min(first + step, chunks))
                codes = [self._codes(memory, patch, chunk) for chunk in numbers]
                for channel in range(CHANNELS):
                    parts = [let(self._weight(weights, row, chunk, channel)) for chunk in numbers]
                    for pixel in range(self.pixels):
                        lanes = constant(0, "int16x8")
                        for chunk_codes, weight in zip(codes, parts, strict=True):
                            lanes = multiply_add(lanes, chunk_codes[pixel], weight)
                        accs[pixel][channel].value = accs[pixel][channel].value + saddlp(lanes)
                    for pixel in range(self.pixels):
                        accs[pixel][channel].value = pin(accs[pixel][channel].value)

        whole = Chain(0, self.patches.segments, 0, self._segment_chunks)
        self._visit(at, start, whole, visit)
        return [let(sum_lanes([acc.value for acc in pixel])) for pixel in accs]

    def _visit(self, at: Expr, start: Expr, chain: Chain, visit: Callable[[Expr, Expr, int], None]) -> None:
        """Loop over the chunks of a chain in parts; `visit` gets the places of the part's codes and weights."""
        part = largest_divisor(chain.chunks, UNROLLED_CHUNKS)
        with loop(chain.segments) as segment, loop(chain.chunks // part) as number:
            nounroll()
            chunk = number * part + chain.chunk
            patch = let((segment + chain.segment) * self.patches.segment_stride + chunk * VECTOR_BYTES + at)
            place = (segment + chain.segment) * self._segment_chunks + chunk
            visit(patch, let(place * (CHANNELS * VECTOR_BYTES) + start), part)

    def _codes(self, memory: Pointer, patch: Expr, chunk: int) -> list[Expr]:
        stride = self.patches.pixel_stride
        places = (patch + (pixel * stride + chunk * VECTOR_BYTES) for pixel in range(self.pixels))
        return [let(memory.load(place, VECTOR_BYTES)) for place in places]

    def _weight(self, weights: Pointer, row: Expr, chunk: int, channel: int) -> Expr:
        return weights.load(row + (chunk * CHANNELS + channel) * VECTOR_BYTES, VECTOR_BYTES)
