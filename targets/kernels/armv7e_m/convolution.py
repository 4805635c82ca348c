"""Kernels of convolutions and fully connected layers for the DSP extension: activations, tile and epilogue together."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Conv2d, Conv2dAdd, FullyConnected, QuantGraph
from qkd.targets.kernels.armv7e_m.activations import PRELUDE, Columns, Rows
from qkd.targets.kernels.armv7e_m.cost import residual_cycles, smlad_cycles
from qkd.targets.kernels.armv7e_m.elementwise import addend_of
from qkd.targets.kernels.armv7e_m.gemm import Product, Tile
from qkd.targets.kernels.armv7e_m.shared_lanes import (
    FIELD_BITS,
    SharedLanes,
    Weights,
    largest_accumulator,
    largest_run,
)
from qkd.targets.kernels.armv7e_m.weights import WeightFormat
from qkd.targets.kernels.bounds import beyond, fits_int32
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.epilogue import channel_table, finish
from qkd.targets.kernels.make import make_kernel, variant_name
from qkd.targets.kernels.thumb import rolled, tile_start
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Operand, Pointer, array, cast, constant, let, opaque

TILES = ((2, 2), (1, 4), (2, 1), (1, 1))
"""Output pixels and channels."""
SHARED_TILES = ((2, 4), (2, 2), (1, 8), (1, 4))
"""The same where two channels share lanes."""
QUADS = (1, 2, 3, 4, 6)
"""Quads of input channels per turn of the inner loop."""

Matrix = Conv2d | Conv2dAdd | FullyConnected


def padded_rows(codes: NDArray[np.int64], activations: Rows | Columns) -> NDArray[np.int64]:
    """Weights (O, KH, KW, C) as (O, K) with zeros where `activations` fill up to whole quads.

    `Rows` fill the channels of each pixel, `Columns` each row of the window and the end of the column.
    """
    out, height, _, channels = codes.shape
    if isinstance(activations, Rows):
        return np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, -channels % 4))).reshape(out, -1)
    runs = codes.reshape(out, height, -1)
    rows = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % 4))).reshape(out, -1)
    return np.pad(rows, ((0, 0), (0, 4 * activations.quads - rows.shape[1])))


@dataclass(frozen=True)
class Plan:
    """One way to compute a layer."""

    window: Window
    tile: Tile
    weights: Weights
    activations: Rows | Columns
    parts: int = 1
    """Of a run of activations, where channels share lanes."""

    @property
    def variant(self) -> str:
        """Name for the report: layout of activations, bits of weights, tile."""
        return f"smlad_{type(self.activations).__name__.lower()}_{self.weights}_{self.tile}"

    @property
    def product(self) -> Product:
        """The inner product: one run for a column, one a window row for rows."""
        a = self.activations
        if isinstance(a, Columns):
            return Product(self.tile, self.weights, 1, a.quads, a.column_words, self.parts)
        height, width = self.window.kernel
        step = self.window.stride[1] * a.pixel_words
        return Product(self.tile, self.weights, height, width * a.pixel_quads, step, self.parts)

    def weight_bytes(self, channels: int) -> int:
        """The packed weights of whole tiles of channels."""
        product, tiles = self.product, -(-channels // self.tile.channels)
        return tiles * self.tile.channels * product.segments * product.segment_quads * 4 * self.weights.bits // 8

    def tiles_are_apart(self, channels: int) -> bool:
        """Whether no tile overlaps another, so that each element is computed once."""
        w, tile = self.window, self.tile
        across = w.out_height * w.out_width if isinstance(self.activations, Columns) else w.out_width
        return across % tile.pixels == 0 and channels % tile.channels == 0

    def segment_start(self, words: Pointer, column: Expr) -> Callable[[Operand], Expr]:
        """Where segments start in the scratch; `column` is the output column of a tile of `Rows`, else unused."""
        a = self.activations
        if isinstance(a, Columns):
            return lambda segment: constant(0)
        first = let(column * (self.window.stride[1] * a.pixel_words))
        return lambda segment: a.start_of(words, segment) + first


def matrix_kernel(graph: QuantGraph, op: Matrix, plan: Plan, why: str) -> Kernel:
    """Write the kernel of a plan."""
    weight = graph.values[op.weight].codes
    shaped = weight if weight.ndim == 4 else weight[:, None, None, :]
    channels = len(weight)
    packed = plan.weights.pack(padded_rows(shaped, plan.activations), plan.tile.channels)
    product, tile = plan.product, plan.tile

    def body(x: Pointer, *pointers: Pointer) -> None:
        addend, (packed_, table, y, scratch) = addend_of(op, pointers, opaque)
        words = scratch.view("int32")
        mask, acc = let(opaque(plan.weights.mask)), array("int32", product.sums)
        with _pixel_tiles(plan, x, scratch, words) as (pixel, column):
            start = plan.segment_start(words, column)
            corrections = product.corrections(words, start)
            with rolled(-(-channels // tile.channels)) as number:
                product.begin(acc, corrections)
                product.accumulate(acc, words, start, packed_, let(number * packed.shape[1]), mask)
                channel = tile_start(number, tile.channels, channels)
                for j in range(tile.channels):
                    totals = [product.total(acc, corrections, i, j) for i in range(tile.pixels)]
                    codes = [finish(t, op.epilogue, table, channel + j, plan.weights.scale_bits) for t in totals]
                    places = [(pixel + i) * channels + (channel + j) for i in range(tile.pixels)]
                    if addend is not None:
                        codes = [addend.add_to(code, at) for code, at in zip(codes, places, strict=True)]
                    for code, at in zip(codes, places, strict=True):
                        y[at] = cast(code, y.dtype)

    in_place = isinstance(op, Conv2dAdd) and plan.tiles_are_apart(channels)
    return make_kernel(graph, op, body, (packed, channel_table(op.epilogue)), 4 * plan.activations.scratch_words,
                       in_place, variant=plan.variant, why=why, prelude=PRELUDE + product.prelude)  # fmt: skip


@contextmanager
def _pixel_tiles(plan: Plan, x: Pointer, scratch: Pointer, words: Pointer) -> Iterator[tuple[Expr, Expr]]:
    """Visit tiles of output pixels with their activations in the scratch; gives first pixel and its column."""
    w, a, size = plan.window, plan.activations, plan.tile.pixels
    if isinstance(a, Rows):
        a.begin(words)
        with rolled(w.out_height) as row:
            a.advance(x, words, row)
            with rolled(-(-w.out_width // size)) as number:
                column = tile_start(number, size, w.out_width)
                yield let(row * w.out_width + column), column
        return
    if not a.is_direct:
        a.copy_padded(x, scratch)
    with rolled(-(-w.out_height * w.out_width // size)) as number:
        pixel = tile_start(number, size, w.out_height * w.out_width)
        for i in range(size):
            a.gather(x if a.is_direct else scratch, words, pixel + i, i)
        yield pixel, constant(0)


def candidates(graph: QuantGraph, op: Matrix) -> Iterator[Offer]:
    """Every safe plan of a layer."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    rows, table_bytes = weight.codes.reshape(weight.shape[0], -1), channel_table(op.epilogue).nbytes
    for in_top_bits in (True, False) if weight.bits < 8 else (True,):
        fmt = WeightFormat(weight.bits, in_top_bits)
        if not fits_int32(rows, entry, fmt.scale_bits):
            yield Refused(f"smlad_{fmt}", beyond(rows, entry, fmt.scale_bits, 31))
            continue
        for shape, quads in itertools.product(TILES, QUADS):
            for plan in _plans(graph, op, Tile(*shape, quads), fmt):
                yield _candidate(graph, op, plan, table_bytes)
    if weight.bits in FIELD_BITS and entry.qmin >= 0:
        yield from _shared(graph, op, SharedLanes(weight.bits), table_bytes)


def _shared(graph: QuantGraph, op: Matrix, weights: SharedLanes, table_bytes: int) -> Iterator[Offer]:
    """Plans by which two channels share lanes, with the fewest parts that are proved safe."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    shaped = weight.codes if weight.codes.ndim == 4 else weight.codes[:, None, None, :]
    smallest = None
    for shape, quads in itertools.product(SHARED_TILES, QUADS):
        for plan in _plans(graph, op, Tile(*shape, quads), weights):
            rows, product = padded_rows(shaped, plan.activations), plan.product
            if rows.shape[1] != weight.elements // len(rows) or largest_accumulator(rows, weights, entry) >= 2**31:
                continue  # what fills rows up may be any byte, and would add to the lower sum
            for parts in (n for n in range(1, product.turns + 1) if product.turns % n == 0):
                largest = largest_run(rows, weights, entry, product.segments * parts)
                smallest = min(largest, smallest or largest)
                if largest <= weights.field_mask:
                    yield _candidate(graph, op, replace(plan, parts=parts), table_bytes)
                    break
    if smallest and smallest > weights.field_mask:
        limit = f"2**{weights.field_bits} = {weights.field_mask + 1:,}"
        yield Refused(f"smlad_{weights}", f"lower sums reach {smallest:,}; they must stay below {limit}")


def _candidate(graph: QuantGraph, op: Matrix, plan: Plan, table_bytes: int) -> Candidate:
    channels = graph.values[op.weight].shape[0]
    cycles = smlad_cycles(plan.product, plan.activations, plan.window, channels) + residual_cycles(graph, op)
    safe = f"max|q| * sum|w| * 2**{plan.weights.scale_bits} < 2**31"
    if isinstance(plan.weights, SharedLanes):
        runs = plan.product.segments * plan.parts
        bound = f"max q * sum(w + {plan.weights.zero}) < 2**{plan.weights.field_bits}"
        safe = f"two channels share lanes; {bound} in each of {runs} runs"
    return Candidate(
        variant_name(op, plan.variant), cycles, plan.weight_bytes(channels) + table_bytes,
        4 * plan.activations.scratch_words, lambda: matrix_kernel(graph, op, plan, safe),
    )  # fmt: skip


def _plans(graph: QuantGraph, op: Matrix, tile: Tile, fmt: Weights) -> Iterator[Plan]:
    w, zero_point = window_of(graph, op), graph.values[op.input].qparams.zero_point
    plans = []
    rows = Rows(w, zero_point)
    if w.taps > 1 and w.out_width >= tile.pixels and rows.row_pixels > w.padding[2]:
        plans.append(Plan(w, tile, fmt, rows))
    if w.out_height * w.out_width >= tile.pixels:
        run_quads = -(-w.kernel[1] * w.channels // 4)
        quads = -(-w.kernel[0] * run_quads // tile.quads) * tile.quads
        plans.append(Plan(w, tile, fmt, Columns(w, zero_point, tile.pixels, quads)))
    if graph.values[op.weight].shape[0] >= tile.channels:
        yield from (plan for plan in plans if plan.product.is_possible())
