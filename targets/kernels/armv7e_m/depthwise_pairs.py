"""Depthwise convolution of height 3 and stride 1 for the DSP extension: two output rows at a time by SMLAD.

Four input rows lie as two words a pixel and channel, (row 0, row 1) and (row 2, row 3). One of the two products of an
output pixel's column is an SMLAD over two rows, the other a single product: six instructions for nine taps, and a load
of two words serves both output rows. The words of a channel lie side by side, so its weights stay in registers.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import DepthwiseConv2d, QuantGraph
from qkd.targets.kernels.armv7e_m.elementwise import saturate
from qkd.targets.kernels.armv7e_m.weights import sign_extend_bytes
from qkd.targets.kernels.epilogue import align, channel_table
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import code_pair, fill_words, rolled, tile_start
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, Register, call, cast, constant, intrinsic, let, mulhi, select

OUT_ROWS = 2
IN_ROWS = 4

PRELUDE = """
define i32 @armv7e_m_address(ptr %place) {
  %address = ptrtoint ptr %place to i32
  ret i32 %address
}
define i32 @armv7e_m_load_from(i32 %row, i32 %offset) {
  %sum = add i32 %row, %offset
  %address = inttoptr i32 %sum to ptr
  %word = load i32, ptr %address, align 1
  ret i32 %word
}
"""
"""LLVM IR for rows that lie in the input or, for padding, in the scratch: TIR cannot choose between two pointers."""


def candidates(graph: QuantGraph, op: DepthwiseConv2d) -> Iterator[Kernel]:
    """The kernel where the window and the channels suit it."""
    w = window_of(graph, op)
    suits = w.kernel[0] == 3 and w.stride == (1, 1) and w.channels % 4 == 0
    if suits and w.out_height >= OUT_ROWS and _row_columns(w) > w.padding[2]:
        yield _kernel(graph, op, w)


def paired_taps(codes: NDArray[np.int64]) -> NDArray[np.int32]:
    """Weights (C, 3, KW, 1) as words [C][KW] of the bytes w0, w1, w1, w2: SXTB16 makes (w0, w1) and (w1, w2) of it."""
    taps = codes[..., 0][:, [0, 1, 1, 2]].transpose(0, 2, 1).astype(np.int8)
    return np.ascontiguousarray(taps).view(np.int32)[..., 0]


def _row_columns(w: Window) -> int:
    return w.out_width + w.kernel[1] - 1


def _kernel(graph: QuantGraph, op: DepthwiseConv2d, w: Window) -> Kernel:
    zero_point = graph.values[op.input].qparams.zero_point
    pairs_words = 2 * w.channels * _row_columns(w)
    padding_words = w.width * w.channels // 4 if any(w.padding[:2]) else 0

    def body(x: Pointer, taps: Pointer, table: Pointer, y: Pointer, scratch: Pointer) -> None:
        words = scratch.view("int32")
        fill_words(words, constant(0), pairs_words, code_pair(zero_point))
        if padding_words:
            fill_words(words, constant(pairs_words), padding_words, code_pair((zero_point & 0xFF) * 0x101))
        with rolled(-(-w.out_height // OUT_ROWS)) as number:
            row = tile_start(number, OUT_ROWS, w.out_height)
            rows = [_row_address(w, x, words.address(pairs_words), row + (i - w.padding[0])) for i in range(IN_ROWS)]
            _pair_rows(w, rows, words)
            with rolled(w.channels) as channel:
                _write_rows(op, w, words, taps, table, y, row, channel)

    constants = (paired_taps(graph.values[op.weight].codes), channel_table(op.epilogue))
    return make_kernel(graph, op, body, constants, 4 * (pairs_words + padding_words), variant="smlad_row_pairs",
                       why="two rows at a time; the graph's accumulator bound holds", prelude=PRELUDE)  # fmt: skip


def _row_address(w: Window, x: Pointer, padding: Expr, row: Expr) -> Expr:
    """Where an input row starts; a row of padding lies in the scratch."""
    row_bytes = w.width * w.channels
    start, outside = (call("int32", "armv7e_m_address", place) for place in (x.address(row * row_bytes), padding))
    return let(select((row >= 0) & (row < w.height), start, outside) if any(w.padding[:2]) else start)


def _pair_rows(w: Window, rows: list[Expr], words: Pointer) -> None:
    """Write the words of four input rows, between the margins that hold padding."""
    columns = _row_columns(w)
    with rolled(min(w.width, columns - w.padding[2])) as column, rolled(w.channels // 4) as quad:
        offset = let(column * w.channels + quad * 4)
        loaded = [let(call("int32", "armv7e_m_load_from", row, offset)) for row in rows]
        place = let((quad * (4 * columns) + column + w.padding[2]) * 2)
        for channel in range(4):
            codes = [sign_extend_bytes(word, odd=channel % 2 == 1) for word in loaded]
            for pair in range(2):
                low, high = codes[2 * pair : 2 * pair + 2]
                is_top = channel >= 2
                word = low >> 16 & 0xFFFF | high & -0x10000 if is_top else low & 0xFFFF | high << 16
                words[place + (channel * columns * 2 + pair)] = word


def _write_rows(op: DepthwiseConv2d, w: Window, words: Pointer, taps: Pointer, table: Pointer, y: Pointer, row: Expr,
                channel: Expr) -> None:  # fmt: skip
    """Compute one channel of two output rows."""
    rq, width = op.epilogue, w.kernel[1]
    bytes_ = [let(taps[channel * width + j]) for j in range(width)]
    weights = [(sign_extend_bytes(word, odd=False), sign_extend_bytes(word, odd=True)) for word in bytes_]
    first, place = let(channel * (2 * _row_columns(w))), let(row * (w.out_width * w.channels) + channel)
    with rolled(w.out_width) as column:
        upper, lower = Register(), Register()
        for j, (early, late) in enumerate(weights):
            top, bottom = (let(words[first + column * 2 + (2 * j + i)]) for i in range(2))
            upper.value = _dsp("smlad", top, early, upper.value)
            lower.value = _dsp("smlatb", top, early, lower.value)
            upper.value = _dsp("smlabt", bottom, late, upper.value)
            lower.value = _dsp("smlad", bottom, late, lower.value)
        multiplier, offset = table[channel * 2], table[channel * 2 + 1]
        for i, total in enumerate((upper, lower)):
            code = saturate(mulhi(align(total.value, rq.pre_shift), multiplier) + offset, rq.shift, rq.qmin, rq.qmax)
            y[place + column * w.channels + i * w.out_width * w.channels] = cast(code, "int8")


def _dsp(name: str, a: Expr, b: Expr, total: Expr) -> Expr:
    return intrinsic("int32", f"llvm.arm.{name}", a, b, total)
