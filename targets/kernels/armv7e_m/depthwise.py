"""Depthwise convolution for the DSP extension: four channels of two output pixels at a time, from expanded rows.

A word holds two channels of one pixel, so each product is an SMLABB or SMLATT; what a window row loads serves both
pixels, and the weights of four channels stay in registers or on the stack along a row of the output.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import DepthwiseConv2d, QuantGraph
from qkd.targets.kernels.armv7e_m.activations import PRELUDE, Rows
from qkd.targets.kernels.armv7e_m.elementwise import saturate
from qkd.targets.kernels.armv7e_m.weights import sign_extend_bytes
from qkd.targets.kernels.epilogue import align, channel_table
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import rolled
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Operand, Pointer, Register, cast, constant, intrinsic, let, mulhi

TILE_PIXELS = 2
TILE_CHANNELS = 4
UNROLLED_TAPS = 9
"""Larger windows loop over their rows."""


def candidates(graph: QuantGraph, op: DepthwiseConv2d) -> Iterator[Kernel]:
    """The depthwise kernel where channels come in fours."""
    w = window_of(graph, op)
    rows = Rows(w, graph.values[op.input].qparams.zero_point)
    if w.channels % TILE_CHANNELS == 0 and rows.row_pixels > w.padding[2]:
        yield _kernel(graph, op, rows)


def interleaved_taps(codes: NDArray[np.int64]) -> NDArray[np.int32]:
    """Weights (C, KH, KW, 1) as words of four channels: [quad][tap]."""
    quads = codes.reshape(-1, TILE_CHANNELS, codes[0].size).transpose(0, 2, 1)
    return np.ascontiguousarray(quads.astype(np.int8)).view(np.int32)[..., 0]


def _kernel(graph: QuantGraph, op: DepthwiseConv2d, rows: Rows) -> Kernel:
    w = rows.window

    def body(x: Pointer, taps: Pointer, table: Pointer, y: Pointer, scratch: Pointer) -> None:
        words = scratch.view("int32")
        rows.begin(words)
        with rolled(w.out_height) as row:
            rows.advance(x, words, row)
            with rolled(w.channels // TILE_CHANNELS) as quad:
                tile = _Tile(op, rows, words, taps, table, y, row, quad)
                if w.out_width >= TILE_PIXELS:
                    with rolled(w.out_width // TILE_PIXELS) as number:
                        tile.write(number * TILE_PIXELS, TILE_PIXELS)
                for column in range(w.out_width - w.out_width % TILE_PIXELS, w.out_width):
                    tile.write(constant(column), 1)

    constants = (interleaved_taps(graph.values[op.weight].codes), channel_table(op.epilogue))
    return make_kernel(graph, op, body, constants, 4 * rows.scratch_words, variant="smlabb_2x4",
                       why="the accumulator bound of the graph holds for int32", prelude=PRELUDE)  # fmt: skip


class _Tile:
    """Records the tiles of one output row and four channels."""

    def __init__(self, op: DepthwiseConv2d, rows: Rows, words: Pointer, taps: Pointer, table: Pointer, y: Pointer,
                 row: Expr, quad: Expr) -> None:  # fmt: skip
        self.rq, self.rows, self.window = op.epilogue, rows, rows.window
        self.words, self.taps, self.table, self.y, self.row, self.quad = words, taps, table, y, row, quad

    def write(self, column: Expr, pixels: int) -> None:
        """Compute `pixels` outputs from `column` on."""
        height, width = self.window.kernel
        acc = [[Register() for _ in range(TILE_CHANNELS)] for _ in range(pixels)]
        first = let(column * (self.window.stride[1] * self.rows.pixel_words) + self.quad * 2)
        if height * width <= UNROLLED_TAPS:
            for i in range(height):
                self._accumulate(acc, first, i)
        else:
            with rolled(height) as window_row:
                self._accumulate(acc, first, window_row)
        self._finish(acc, column)

    def _accumulate(self, acc: list[list[Register]], first: Expr, window_row: Operand) -> None:
        (height, width), step = self.window.kernel, self.window.stride[1]
        start = let(self.rows.start_of(self.words, window_row) + first)
        tap = let(self.quad * (height * width) + window_row * width)
        pairs = [
            [let(self.words[start + (j * self.rows.pixel_words + odd)]) for odd in range(2)]
            for j in range((len(acc) - 1) * step + width)
        ]
        for j in range(width):
            word = let(self.taps[tap + j])
            for odd in range(2):
                weights = sign_extend_bytes(word, odd=odd == 1)
                for pixel, registers in enumerate(acc):
                    pair = pairs[pixel * step + j][odd]
                    for half, name in ((0, "smlabb"), (1, "smlatt")):
                        total = registers[odd + 2 * half]
                        total.value = intrinsic("int32", f"llvm.arm.{name}", pair, weights, total.value)

    def _finish(self, acc: list[list[Register]], column: Expr) -> None:
        channel = let(self.quad * TILE_CHANNELS)
        place = let((self.row * self.window.out_width + column) * self.window.channels + channel)
        for i in range(TILE_CHANNELS):
            multiplier, offset = (let(self.table[(channel + i) * 2 + n]) for n in range(2))
            for pixel, registers in enumerate(acc):
                scaled = mulhi(align(registers[i].value, self.rq.pre_shift), multiplier) + offset
                code = saturate(scaled, self.rq.shift, self.rq.qmin, self.rq.qmax)
                self.y[place + (pixel * self.window.channels + i)] = cast(code, "int8")
