"""Convolution of 3 x 3 taps by exact integer Winograd F(2x2, 3x3), for activations and weights of few bits.

16 products in place of 36 for four outputs. Rows of tiles go through three steps: the input transform in int8, sixteen
channels a vector; products of 16 matrices in wrapping int16, SMLAL with LD4R broadcasting four input channels of a
tile; the output transform by halving adds, requantized on the way out. `armv8_a_winograd_proof` says why that is exact.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Conv2d, QuantGraph
from qkd.targets.kernels.armv8_a import elements
from qkd.targets.kernels.armv8_a.broadcast import DEPTH, LANES, Sums, rows_of_block
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.chains import largest_divisor
from qkd.targets.kernels.armv8_a.neon import hidden_address
from qkd.targets.kernels.armv8_a.patches import pad_input, tiles
from qkd.targets.kernels.armv8_a.requantize import block_table
from qkd.targets.kernels.armv8_a.weights import channel_blocks
from qkd.targets.kernels.armv8_a.winograd_proof import INT8_MAX, INT16_MAX, POSITIONS, beyond_proof, prove
from qkd.targets.kernels.armv8_a.winograd_transforms import (
    QUAD,
    QUAD_WIDTH,
    Plan,
    plan_of,
    transform_input,
    transform_output,
)
from qkd.targets.kernels.candidate import Refused
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Constant, Kernel
from qkd.tir.tir import Expr, Pointer, Register, constant, let, loop, nounroll

UNROLLED_CHANNELS = 16


def candidates(graph: QuantGraph, op: Conv2d, by_element: bool) -> Iterator[Kernel | Refused]:
    """The kernel of a 3 x 3 convolution of stride 1 whose channels fill vectors and whose weights allow it."""
    window, entry, weight = window_of(graph, op), graph.values[op.input], graph.values[op.weight]
    if window.kernel != (3, 3) or window.stride != (1, 1) or window.out_height < 2 or window.out_width < QUAD_WIDTH:
        return
    if window.channels % LANES or weight.shape[0] % LANES:
        return
    depth, limit = (elements.DEPTH, INT16_MAX) if by_element else (DEPTH, INT8_MAX)
    proof = prove(weight.codes, entry, depth, limit)
    if proof is None:
        yield Refused("winograd", beyond_proof(weight.codes, entry, depth, limit))
    else:
        plan = plan_of(window, entry.qparams.zero_point, weight.shape[0], proof, by_element)
        yield _kernel(graph, op, plan)


def _kernel(graph: QuantGraph, op: Conv2d, plan: Plan) -> Kernel:
    blocks = channel_blocks(plan.channels_out, plan.block)
    table = block_table(op.epilogue, channel_blocks(plan.channels_out, LANES))

    def body(x: Pointer, weights: Pointer, table: Pointer, *others: Pointer) -> None:
        *totals, y, scratch = others
        pad_input(x, scratch, plan.window, plan.zero_point, plan.padded_start)
        sums = scratch.view("int16")
        with tiles(plan.tile_rows, plan.strip_rows) as first:
            transform_input(scratch, sums, plan, first)
            with loop(len(blocks)) as block:
                _multiply(scratch, sums, weights, plan, block)
                transform_output(sums, y, table, totals[0] if totals else None, plan, op.epilogue, first, block)

    arranged = arrange_weights(plan.proof.transformed, blocks)
    transformed: Constant = arranged.astype(np.int16) if plan.by_element else arranged.astype(np.int8)
    constants = [transformed, table, *([plan.proof.totals.astype(np.int32)] if plan.proof.centre else [])]
    why = (
        f"for every output channel, int16 holds what is halved and y of each of {plan.proof.groups} group(s) of "
        f"{plan.proof.group_channels} input channels"
    )
    return build_kernel(graph, op, f"winograd_{plan.proof.groups}", why, body, constants, plan.scratch_bytes)


def arrange_weights(transformed: NDArray[np.int64], blocks: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """(16, O, C) → [block][position][C][channels of a block]."""
    return np.stack([transformed[:, list(block)].transpose(0, 2, 1) for block in blocks])


def _multiply(scratch: Pointer, sums: Pointer, weights: Pointer, plan: Plan, block: Expr) -> None:
    """The product of each position's matrices: [tile][channel in] times [channel in][channel out]."""
    depth, channels = plan.proof.group_channels, plan.window.channels
    quads = min(rows_of_block(plan.block), plan.tiles) // QUAD
    with (
        loop(plan.proof.groups) as group,
        loop(POSITIONS) as position,
        tiles(plan.strip_rows * plan.quads, quads) as quad,
    ):
        tile = position * plan.tiles + quad * QUAD
        rows = let(((block * POSITIONS + position) * channels + group * depth) * plan.block)
        if plan.by_element:
            codes = let(tile * channels + group * depth + plan.sums_bytes // 2)
            result = _product_by_element(sums, codes, weights, rows, plan, quads)
        else:
            codes = let(tile * channels + group * (depth * QUAD) + plan.sums_bytes)
            result = _product(scratch, codes, weights, rows, plan, quads)
        start = let((group * (POSITIONS * plan.tiles) + tile) * plan.block)
        for i, row in enumerate(result):
            for j, acc in enumerate(row):
                sums[start + (i * plan.block + j * 8)] = acc.value


def _product(
    scratch: Pointer, codes: Expr, weights: Pointer, rows: Expr, plan: Plan, quads: int
) -> list[list[Register]]:
    """Sums of some quads over the channels of a group; a quad's codes lie in the order in which they are needed."""
    sums = Sums(plan.block)

    def visit(place: Expr, at: Expr, steps: int) -> None:
        addresses = [
            hidden_address(scratch, place * QUAD + codes + quad * (QUAD * plan.window.channels))
            for quad in range(quads)
        ]
        sums.add(addresses, QUAD, weights, let(at + rows), steps)

    _visit_channels(plan, DEPTH, visit)
    return sums.rows


def _product_by_element(
    words: Pointer, codes: Expr, weights: Pointer, rows: Expr, plan: Plan, quads: int
) -> list[list[Register]]:
    sums = elements.ElementSums(plan.block)

    def visit(place: Expr, at: Expr, steps: int) -> None:
        start = let(place + codes)
        places = [start + tile * plan.window.channels for tile in range(quads * QUAD)]
        sums.add(words, places, weights, let(at + rows), steps)

    _visit_channels(plan, elements.DEPTH, visit)
    return sums.rows


def _visit_channels(plan: Plan, depth: int, visit: Callable[[Expr, Expr, int], None]) -> None:
    """Some steps of `depth` channels at a time: first channel, its row of weights and the number of steps."""
    channels = plan.proof.group_channels
    steps = largest_divisor(channels // depth, UNROLLED_CHANNELS // depth)
    visit(constant(0), constant(0), steps)
    with loop(channels // (depth * steps) - 1) as part:
        nounroll()
        channel = let((part + 1) * (steps * depth))
        visit(channel, channel * plan.block, steps)
