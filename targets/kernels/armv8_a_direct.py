"""Convolution and matrix product for Armv8.0 whose sums are proved to fit int16: few bits, or few taps."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from qkd.graph import Conv2d, QuantGraph
from qkd.kernel import Kernel
from qkd.targets.kernels.armv8_a_broadcast import DEPTH, LANES, Sums, block_channels, rows_of_block
from qkd.targets.kernels.armv8_a_build import build_kernel
from qkd.targets.kernels.armv8_a_chains import largest_divisor, sum_fits_int16
from qkd.targets.kernels.armv8_a_neon import forget_loads, hidden_address, hide
from qkd.targets.kernels.armv8_a_patches import Patches, patches_of, tiles
from qkd.targets.kernels.armv8_a_requantize import block_table, load_channels, to_codes
from qkd.targets.kernels.armv8_a_weights import channel_blocks, pack_vectors, unpack, unpacked_bytes
from qkd.targets.kernels.generic import window_of
from qkd.tir import Expr, Pointer, constant, high_half, let, loop, low_half, minimum, nounroll, widen

UNROLLED_STEPS = 8  # of 32 channels: their weights are within the reach of LDP


def candidates(graph: QuantGraph, op: Conv2d) -> Iterable[Kernel]:
    """The kernel of a convolution with sixteen output channels or more, where the weights bound every sum."""
    entry, weight = graph.values[op.input], graph.values[op.weight]
    if weight.shape[0] < LANES or not sum_fits_int16(weight.codes, max(abs(entry.qmin), abs(entry.qmax))):
        return
    patches = patches_of(window_of(graph, op), entry.qparams.zero_point)
    if patches.columns >= rows_of_block(block_channels(weight.shape[0])):
        yield _kernel(graph, op, patches, patches.arrange(weight.codes))


def _kernel(graph: QuantGraph, op: Conv2d, patches: Patches, rows: NDArray[np.int8]) -> Kernel:
    bits, size = graph.values[op.weight].bits, block_channels(len(rows))
    blocks, pixels = channel_blocks(len(rows), size), rows_of_block(size)
    vectors = np.stack([rows[list(b)].T for b in blocks]).reshape(len(blocks), patches.taps, size // LANES, LANES)
    packed = pack_vectors(np.ascontiguousarray(vectors), bits)
    unpacked = unpacked_bytes(patches.taps, size // LANES, bits)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer | None) -> None:
        memory, origin = patches.prepare(x, scratch)
        with loop(len(blocks)) as block:
            source, start = weights, let(block * (patches.taps * size))
            if scratch is not None and unpacked:
                unpack(weights, block, packed.shape, bits, scratch, patches.scratch_bytes)
                source, start = scratch, constant(patches.scratch_bytes)
            first = let(minimum(block * size, len(rows) - size))
            with loop(patches.rows) as row, tiles(patches.columns, pixels) as column:
                forget_loads()
                at = let(row * patches.row_stride + column * patches.pixel_stride + origin)
                sums = _accumulate(memory, at, source, start, patches, Sums(size), pixels)
                result = let((row * patches.columns + column) * len(rows) + first)
                _store(y, result, len(rows), sums, op, table, block)

    constants = (packed, block_table(op.epilogue, channel_blocks_of(blocks)))
    why = "amax * sum of |w| of every channel fits int16"
    return build_kernel(graph, op, "direct_int16", why, body, constants, patches.scratch_bytes + unpacked)


def channel_blocks_of(blocks: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Each block of channels cut into vectors."""
    return [block[i : i + LANES] for block in blocks for i in range(0, len(block), LANES)]


def _accumulate(
    memory: Pointer, at: Expr, weights: Pointer, start: Expr, patches: Patches, sums: Sums, pixels: int
) -> Sums:
    steps = largest_divisor(patches.segment_bytes // DEPTH, UNROLLED_STEPS)
    parts = patches.segment_bytes // (DEPTH * steps)

    def visit(part: Expr | int) -> None:
        segment, rest = part // parts, part % parts
        place = segment * patches.segment_stride + rest * (steps * DEPTH) + at
        addresses = [hidden_address(memory, place + i * patches.pixel_stride) for i in range(pixels)]
        sums.add(addresses, 1, weights, hide(part * (steps * DEPTH * sums.block) + start), steps)

    visit(constant(0))
    with loop(patches.segments * parts - 1) as part:
        nounroll()
        visit(part + 1)
    return sums


def _store(y: Pointer, start: Expr, stride: int, sums: Sums, op: Conv2d, table: Pointer, block: Expr) -> None:
    """Requantize sixteen channels of every pixel, then the next sixteen."""
    parts = sums.block // LANES
    for part in range(parts):
        channels = load_channels(table, block * parts + part, LANES)
        for i, row in enumerate(sums.rows):
            halves = [acc.value for acc in row[2 * part : 2 * part + 2]]
            accs = [widen(half(acc)) for acc in halves for half in (low_half, high_half)]
            y[start + (i * stride + part * LANES)] = to_codes(accs, op.epilogue, channels)
