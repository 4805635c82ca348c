"""Convolution and matrix product for Armv8.0 whose sums are proved to fit int16: few bits, or few taps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Conv2d, QuantGraph
from qkd.targets.kernels.armv8_a import elements
from qkd.targets.kernels.armv8_a.broadcast import DEPTH, LANES, Sums, block_channels, rows_of_block
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.chains import beyond_int16, largest_divisor, sum_fits_int16
from qkd.targets.kernels.armv8_a.elements import widen_bytes
from qkd.targets.kernels.armv8_a.neon import forget_loads, hidden_address, hide
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, Patches, ceil_to, patches_of, tiles
from qkd.targets.kernels.armv8_a.requantize import block_table, load_channels, to_codes
from qkd.targets.kernels.armv8_a.weights import channel_blocks, pack_vectors, unpack, unpacked_bytes
from qkd.targets.kernels.candidate import Refused
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, Register, constant, high_half, let, loop, low_half, minimum, nounroll, widen

UNROLLED_WEIGHT_BYTES = 1024  # as far as LDP reaches
UNROLLED_TAPS_BY_ELEMENT = 64
FEWEST_TAPS_BY_ELEMENT = 64  # with fewer, widening the codes costs more than it saves


def candidates(graph: QuantGraph, op: Conv2d, by_element: bool) -> Iterator[Kernel | Refused]:
    """The kernel of a convolution with sixteen output channels or more, where the weights bound every sum."""
    entry, weight = graph.values[op.input], graph.values[op.weight]
    if weight.shape[0] < LANES:
        return
    if not sum_fits_int16(weight.codes, entry.qmin, entry.qmax):
        yield Refused("direct_int16", beyond_int16(weight.codes, entry.qmin, entry.qmax))
        return
    patches = patches_of(window_of(graph, op), entry.qparams.zero_point)
    by_element = by_element and patches.taps >= FEWEST_TAPS_BY_ELEMENT
    plan = Plan(patches, weight.shape[0], block_channels(weight.shape[0]), weight.bits, by_element)
    if patches.columns >= plan.pixels:
        yield _kernel(graph, op, plan, patches.arrange(weight.codes))


@dataclass(frozen=True)
class Plan:
    """Sizes of one convolution."""

    patches: Patches
    channels: int
    block: int
    """Output channels of one product: two vectors of int8, or one."""
    bits: int
    by_element: bool
    """Codes and weights are widened to int16 first, for `armv8_a_elements`."""

    @property
    def pixels(self) -> int:
        """Pixels of one product."""
        return rows_of_block(self.block)

    @property
    def unrolled_taps(self) -> int:
        """Taps of a loop's body."""
        return UNROLLED_TAPS_BY_ELEMENT if self.by_element else UNROLLED_WEIGHT_BYTES // self.block

    @property
    def source_bytes(self) -> int:
        """Bytes from the first patch to the end of the last, in the input or in the scratch."""
        p = self.patches
        last = (p.rows - 1) * p.row_stride + (p.columns - 1) * p.pixel_stride + (p.segments - 1) * p.segment_stride
        return last + p.segment_bytes

    @property
    def words_start(self) -> int:
        """Where the widened codes begin."""
        return ceil_to(self.patches.scratch_bytes, VECTOR_BYTES)

    @property
    def weights_start(self) -> int:
        """Where the unpacked weights begin."""
        return self.words_start + (2 * ceil_to(self.source_bytes, VECTOR_BYTES) if self.by_element else 0)

    @property
    def scratch_bytes(self) -> int:
        """All of it."""
        unpacked = unpacked_bytes(self.patches.taps, self.block // LANES, self.bits)
        weights = 2 * self.patches.taps * self.block if self.by_element else 0
        return self.weights_start + max(unpacked * (2 if self.by_element else 1), weights)


def _kernel(graph: QuantGraph, op: Conv2d, plan: Plan, rows: NDArray[np.int8]) -> Kernel:
    blocks, patches = channel_blocks(len(rows), plan.block), plan.patches
    vectors = np.stack([rows[list(b)].T for b in blocks]).reshape(len(blocks), patches.taps, -1, LANES)
    packed = pack_vectors(np.ascontiguousarray(vectors), plan.bits)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer | None) -> None:
        memory, origin = _source(plan, x, scratch)
        with loop(len(blocks)) as block:
            source, start = _weights(plan, weights, block, packed.shape, scratch)
            first = let(minimum(block * plan.block, len(rows) - plan.block))
            with loop(patches.rows) as row, tiles(patches.columns, plan.pixels) as column:
                forget_loads()
                at = let(row * patches.row_stride + column * patches.pixel_stride + origin)
                sums = _accumulate(memory, at, source, start, plan)
                result = let((row * patches.columns + column) * len(rows) + first)
                _store(y, result, plan, sums, op, table, block)

    constants = (packed, block_table(op.epilogue, channel_blocks_of(blocks)))
    variant = "direct_int16_by_element" if plan.by_element else "direct_int16"
    why = "least and largest sum of every channel fit int16"
    return build_kernel(graph, op, variant, why, body, constants, plan.scratch_bytes)


def _source(plan: Plan, x: Pointer, scratch: Pointer | None) -> tuple[Pointer, int]:
    """Where the patches lie, and the first one's element."""
    memory, origin = plan.patches.prepare(x, scratch)
    if scratch is None or not plan.by_element:
        return memory, origin
    words = scratch.view("int16")
    widen_bytes(memory, origin, plan.source_bytes, words, plan.words_start // 2)
    return words, plan.words_start // 2


def _weights(
    plan: Plan, weights: Pointer, block: Expr, shape: Sequence[int], scratch: Pointer | None
) -> tuple[Pointer, Expr]:
    """Where a block's weights lie once they are unpacked, and the first one's element."""
    if scratch is None or (plan.bits == 8 and not plan.by_element):
        return weights, let(block * (plan.patches.taps * plan.block))
    to, start = (scratch.view("int16"), plan.weights_start // 2) if plan.by_element else (scratch, plan.weights_start)
    unpack(weights, block, shape, plan.bits, to, start)
    return to, constant(start)


def channel_blocks_of(blocks: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Each block of channels cut into vectors."""
    return [block[i : i + LANES] for block in blocks for i in range(0, len(block), LANES)]


def _accumulate(memory: Pointer, at: Expr, weights: Pointer, start: Expr, plan: Plan) -> list[list[Register]]:
    """The sums of every pixel with a block of channels, in vectors of eight."""
    patches, depth = plan.patches, elements.DEPTH if plan.by_element else DEPTH
    steps = largest_divisor(patches.segment_bytes // depth, plan.unrolled_taps // depth)
    parts = patches.segment_bytes // (depth * steps)
    bytewise, wordwise = Sums(plan.block), elements.ElementSums(plan.block)

    def visit(part: Expr) -> None:
        segment, rest = part // parts, part % parts
        place = let(segment * patches.segment_stride + rest * (steps * depth) + at)
        places = [place + i * patches.pixel_stride for i in range(plan.pixels)]
        row = hide(part * (steps * depth * plan.block) + start)
        if plan.by_element:
            wordwise.add(memory, places, weights, row, steps)
        else:
            bytewise.add([hidden_address(memory, p) for p in places], 1, weights, row, steps)

    visit(constant(0))
    with loop(patches.segments * parts - 1) as part:
        nounroll()
        visit(part + 1)
    return wordwise.rows if plan.by_element else bytewise.rows


def _store(
    y: Pointer, start: Expr, plan: Plan, sums: list[list[Register]], op: Conv2d, table: Pointer, block: Expr
) -> None:
    """Requantize sixteen channels of every pixel, then the next sixteen."""
    parts = plan.block // LANES
    for part in range(parts):
        channels = load_channels(table, block * parts + part, LANES)
        for i, row in enumerate(sums):
            halves = [acc.value for acc in row[2 * part : 2 * part + 2]]
            accs = [widen(half(acc)) for acc in halves for half in (low_half, high_half)]
            y[start + (i * plan.channels + part * LANES)] = to_codes(accs, op.epilogue, channels)
