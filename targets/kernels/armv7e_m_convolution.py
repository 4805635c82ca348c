"""Kernels of convolutions and fully connected layers for the DSP extension: activations, tile and epilogue together."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph import Conv2d, FullyConnected, QuantGraph
from qkd.kernel import Kernel
from qkd.targets.kernels.armv7e_m_activations import PRELUDE, Columns, Rows, rolled
from qkd.targets.kernels.armv7e_m_gemm import Accumulators, Product, Tile, tile_start
from qkd.targets.kernels.armv7e_m_weights import WeightFormat
from qkd.targets.kernels.bounds import fits_int32
from qkd.targets.kernels.epilogue import channel_table, finish
from qkd.targets.kernels.generic import Window, make_kernel, window_of
from qkd.tir import Expr, Pointer, Register, cast, constant, let, opaque

Matrix = Conv2d | FullyConnected


def padded_rows(codes: NDArray[np.int64], quads: int) -> NDArray[np.int64]:
    """Weights (O, KH, KW, C) as (O, K): zeros fill each window row up to whole quads, and the end up to `quads`."""
    channels, height = codes.shape[:2]
    runs = codes.reshape(channels, height, -1)
    runs = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % 4)))
    rows = runs.reshape(channels, -1)
    return np.pad(rows, ((0, 0), (0, 4 * quads - rows.shape[1])))


@dataclass(frozen=True)
class Plan:
    """One way to compute a layer."""

    window: Window
    tile: Tile
    weights: WeightFormat
    activations: Rows | Columns

    @property
    def variant(self) -> str:
        """Name for the report: layout of activations, bits of weights, tile."""
        layout = type(self.activations).__name__.lower()
        unsigned = "u" if self.weights.zero else ""
        return f"smlad_{layout}_w{self.weights.bits}{unsigned}_{self.tile}"

    @property
    def quads(self) -> int:
        """Quads of a channel's weights."""
        if isinstance(self.activations, Columns):
            return self.activations.quads
        return self.window.kernel[0] * self.window.kernel[1] * self.window.channels // 4

    def product(self, scratch: Pointer, column: Expr | None) -> Product:
        """The inner product; `column` is the output column of a tile of `Rows`."""
        a = self.activations
        if isinstance(a, Columns):
            return Product(self.tile, self.weights, 1, a.quads, a.column_words, lambda segment: constant(0))
        pixel = self.window.stride[1] * a.pixel_words
        segments = self.window.kernel[0]

        def start(segment: Expr) -> Expr:
            return a.start_of(scratch, segment) + column * pixel

        return Product(self.tile, self.weights, segments, self.quads // segments, pixel, start)


def matrix_kernel(graph: QuantGraph, op: Matrix, plan: Plan, why: str) -> Kernel:
    """Write the kernel of a plan."""
    output = graph.values[op.output]
    weight = graph.values[op.weight].codes
    shaped = weight if weight.ndim == 4 else weight[:, None, None, :]
    channels = len(weight)
    packed = plan.weights.pack(padded_rows(shaped, plan.quads), plan.tile.channels)

    def body(x: Pointer, packed_: Pointer, table: Pointer, y: Pointer, scratch: Pointer) -> None:
        words = scratch.view("int32")
        mask = let(opaque(plan.weights.mask))
        with _pixel_tiles(plan, x, scratch, words) as (pixel, column):
            product = plan.product(words, column)
            corrections = product.corrections(words)
            with rolled(-(-channels // plan.tile.channels)) as number:
                acc: Accumulators = [[Register("int32", c) for _ in range(plan.tile.channels)] for c in corrections]
                product.accumulate(acc, words, packed_, let(number * packed.shape[1]), mask)
                channel = tile_start(number, plan.tile.channels, channels)
                for j in range(plan.tile.channels):
                    for i in range(plan.tile.pixels):
                        code = finish(acc[i][j].value, op.epilogue, table, channel + j, plan.weights.scale_bits)
                        y[(pixel + i) * channels + (channel + j)] = cast(code, output.dtype)

    return make_kernel(graph, op, body, (packed, channel_table(op.epilogue)), 4 * plan.activations.scratch_words,
                       variant=plan.variant, why=why, prelude=PRELUDE)  # fmt: skip


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


def candidates(graph: QuantGraph, op: Matrix, tiles: Iterable[Tile]) -> Iterator[Kernel]:
    """Every safe plan of a layer, in the order of `tiles`."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    rows = weight.codes.reshape(weight.shape[0], -1)
    for top in (True, False) if weight.bits < 8 else (True,):
        fmt = WeightFormat(weight.bits, top)
        if not fits_int32(rows, entry, fmt.scale_bits):
            continue
        for tile in tiles:
            plan = _plan(graph, op, tile, fmt)
            if plan is not None:
                yield matrix_kernel(graph, op, plan, f"max|q| * sum|w| * 2**{fmt.scale_bits} < 2**31")


def _plan(graph: QuantGraph, op: Matrix, tile: Tile, fmt: WeightFormat) -> Plan | None:
    w, zero_point = window_of(graph, op), graph.values[op.input].qparams.zero_point
    channels = graph.values[op.weight].shape[0]
    if channels < tile.channels or (2 * tile.quads * tile.channels) % fmt.pairs_per_word:
        return None
    run = w.kernel[1] * w.channels
    if w.taps > 1 and w.channels % 4 == 0 and run // 4 % tile.quads == 0 and w.out_width >= tile.pixels:
        rows = Rows(w, zero_point)
        if rows.row_pixels > w.padding[2]:
            return Plan(w, tile, fmt, rows)
    if w.out_height * w.out_width < tile.pixels:
        return None
    quads = -(-w.kernel[0] * -(-run // 4) // tile.quads) * tile.quads
    return Plan(w, tile, fmt, Columns(w, zero_point, tile.pixels, quads))
