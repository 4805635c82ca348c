"""Depthwise convolution on Armv6-M: one channel after the other, two output rows in a word where sums fit int16.

The image of a channel is expanded once into words whose lanes are output rows half the height apart; a few columns
of both rows are then summed in registers, all taps unrolled. Columns lie by their remainder of the stride, so that
the words of neighbouring outputs are neighbours too and one LDM brings them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import DepthwiseConv2d, QuantGraph, Value
from qkd.graph.packing import pack_rows
from qkd.targets.kernels.armv6_m.assembly import depthwise_ir
from qkd.targets.kernels.armv6_m.convolution import fits_half
from qkd.targets.kernels.armv6_m.requantize import DigitRequantize, accumulator_range, digit_requantize
from qkd.targets.kernels.armv6_m.rows_body import PRELUDE as ARITHMETIC
from qkd.targets.kernels.armv6_m.rows_body import subtract
from qkd.targets.kernels.bounds import beyond
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import code_pair, fill_words, rolled, tile_start
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, call, cast, constant, evaluate, let, select, when, widen

WORDS = (5, 4, 3, 2, 1)
LARGEST_TAPS = 49

PRELUDE = (
    ARITHMETIC
    + """
define i32 @armv6_m_address(ptr %place) {
  %address = ptrtoint ptr %place to i32
  ret i32 %address
}
define i32 @armv6_m_code_at(i32 %row, i32 %offset) {
  %sum = add i32 %row, %offset
  %address = inttoptr i32 %sum to ptr
  %byte = load i8, ptr %address, align 1
  %code = sext i8 %byte to i32
  ret i32 %code
}
"""
)
"""LLVM IR for rows that lie in the input or, for padding, in the scratch: TIR cannot choose between two pointers."""


@dataclass(frozen=True)
class Plan:
    """One way to compute a layer."""

    window: Window
    words: int
    """Output columns at a time."""
    paired: bool
    """Two output rows a word."""

    @property
    def variant(self) -> str:
        """Name for the report."""
        return f"depthwise_{self.words}{'x2' if self.paired else ''}"

    @property
    def half(self) -> int:
        """Output rows of one lane."""
        return -(-self.window.out_height // 2) if self.paired else self.window.out_height

    @property
    def rows(self) -> int:
        """Expanded rows."""
        return (self.half - 1) * self.window.stride[0] + self.window.kernel[0]

    @property
    def phase_words(self) -> int:
        """Columns of one remainder of the stride."""
        columns = (self.window.out_width - 1) * self.window.stride[1] + self.window.kernel[1]
        return -(-columns // self.window.stride[1])

    @property
    def row_words(self) -> int:
        """Words of an expanded row."""
        return self.phase_words * self.window.stride[1]

    @property
    def offsets(self) -> tuple[int, ...]:
        """Bytes from the words of the first tap to those of each tap."""
        (height, width), step = self.window.kernel, self.window.stride[1]
        return tuple(
            4 * (i * self.row_words + j % step * self.phase_words + j // step)
            for i in range(height)
            for j in range(width)
        )

    @property
    def padding_word(self) -> int:
        """A row of padding, behind the image, the weights and the sums."""
        return self.rows * self.row_words + self.window.taps + self.words

    @property
    def needs_padding_row(self) -> bool:
        """Whether some row of some lane lies outside the input."""
        bottom = (self.half * (2 if self.paired else 1) - 1) * self.window.stride[0] + self.window.kernel[0]
        return any(self.window.padding[:2]) or bottom > self.window.height

    @property
    def scratch_bytes(self) -> int:
        """All of it."""
        row = self.window.width * self.window.channels if self.needs_padding_row else 0
        return 4 * self.padding_word + row

    @property
    def cycles(self) -> int:
        """Estimate, as in `armv6_m_cost`."""
        w, n = self.window, self.words
        tiles = self.half * -(-w.out_width // n)
        lanes = 2 if self.paired else 1
        run = 40 + w.taps * (2 + 1 + n + 2 * n + 1) + n * lanes * 30
        image = self.rows * (30 + w.width * 9 * lanes)
        return w.channels * (tiles * run + image + 10 * w.taps)


def candidates(graph: QuantGraph, op: DepthwiseConv2d) -> Iterator[Offer]:
    """Every plan of a layer, safe or refused."""
    weight, entry, w = graph.values[op.weight], graph.values[op.input], window_of(graph, op)
    rows = weight.codes.reshape(len(weight.codes), -1)
    steps = digit_requantize(op.epilogue, *accumulator_range(rows, entry.qmin, entry.qmax))
    if steps is None or w.taps > LARGEST_TAPS:
        return
    if not fits_half(rows, entry):
        yield Refused("depthwise, two lanes a word", beyond(rows, entry, 0, 15))
    for words, paired in itertools.product(WORDS, (True, False)):
        plan = Plan(w, words, paired)
        suits = words <= w.out_width and plan.phase_words * w.stride[1] > w.padding[2]
        if suits and (not paired or fits_half(rows, entry)):
            yield _candidate(graph, op, plan, steps)


def _candidate(graph: QuantGraph, op: DepthwiseConv2d, plan: Plan, steps: DigitRequantize) -> Candidate:
    sums = "sums fit int16" if plan.paired else "sums fit int32"
    flash_bytes = _packed(graph.values[op.weight]).nbytes + steps.table.nbytes
    return Candidate(plan.variant, plan.cycles, flash_bytes, plan.scratch_bytes,
                     lambda: _kernel(graph, op, plan, steps, sums))  # fmt: skip


def _packed(weight: Value) -> NDArray[np.int8]:
    return pack_rows(weight.codes.reshape(len(weight.codes), -1), weight.bits).view(np.int8)


def _kernel(graph: QuantGraph, op: DepthwiseConv2d, plan: Plan, steps: DigitRequantize, why: str) -> Kernel:
    weight, zero_point, w = graph.values[op.weight], graph.values[op.input].qparams.zero_point, plan.window
    packed = _packed(weight)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer) -> None:
        words = scratch.view("int32")
        fill_words(words, constant(0), plan.rows * plan.row_words, _pair(plan, zero_point))
        if plan.needs_padding_row:
            with rolled(w.width * w.channels) as i:
                scratch[4 * plan.padding_word + i] = zero_point
        with rolled(w.channels) as channel:
            _expand_weights(weights, channel * packed.shape[1], words, plan, weight.bits)
            _expand_image(x, scratch, words, plan, channel)
            _write_image(op, plan, steps, words, table, y, channel)

    return make_kernel(graph, op, body, (packed, steps.table), plan.scratch_bytes, variant=plan.variant, why=why,
                       prelude=PRELUDE + depthwise_ir("armv6_m_taps", plan.words, plan.offsets))  # fmt: skip


def _pair(plan: Plan, code: int) -> int:
    """A code in all lanes of a word: a negative low lane borrows from the high one."""
    if not plan.paired:
        return code
    return code_pair(code) - (1 << 16 if code < 0 else 0)


def _expand_weights(weights: Pointer, first: Expr, words: Pointer, plan: Plan, bits: int) -> None:
    """Write a channel's weights as int32."""
    place = let(first)
    for tap in range(plan.window.taps):
        byte, field = divmod(tap * bits, 8)
        code = widen(weights[place + byte]) << (32 - bits - field) >> (32 - bits)
        words[plan.rows * plan.row_words + tap] = code


def _expand_image(x: Pointer, scratch: Pointer, words: Pointer, plan: Plan, channel: Expr) -> None:
    """Write a channel's codes, between the margins that hold padding."""
    w, step = plan.window, plan.window.stride[1]
    lanes = [0, plan.half * w.stride[0]] if plan.paired else [0]
    with rolled(plan.rows) as row:
        starts = [let(_row_address(plan, x, scratch, row + (lane - w.padding[0])) + channel) for lane in lanes]
        for phase in range(step):
            first = max(0, -(-(w.padding[2] - phase) // step))
            last = min(plan.phase_words - 1, (w.width - 1 + w.padding[2] - phase) // step)
            place = let(row * plan.row_words + (phase * plan.phase_words + first))
            with rolled(max(0, last - first + 1)) as i:
                at = let((i * step + (first * step + phase - w.padding[2])) * w.channels)
                codes = [call("int32", "armv6_m_code_at", start, at) for start in starts]
                words[place + i] = codes[0] + (codes[1] << 16) if plan.paired else codes[0]


def _row_address(plan: Plan, x: Pointer, scratch: Pointer, row: Expr) -> Expr:
    """Where an input row starts; a row of padding lies in the scratch."""
    w = plan.window
    start = call("int32", "armv6_m_address", x.address(row * (w.width * w.channels)))
    if not plan.needs_padding_row:
        return start
    outside = call("int32", "armv6_m_address", scratch.address(4 * plan.padding_word))
    return let(select((row >= 0) & (row < w.height), start, outside))


def _write_image(op: DepthwiseConv2d, plan: Plan, steps: DigitRequantize, words: Pointer, table: Pointer, y: Pointer,
                 channel: Expr) -> None:  # fmt: skip
    """Compute all outputs of a channel."""
    w, weights = plan.window, plan.rows * plan.row_words
    sums = weights + w.taps
    constants = steps.constants(table, channel)
    with rolled(plan.half) as row, rolled(-(-w.out_width // plan.words)) as number:
        column = tile_start(number, plan.words, w.out_width)
        places = (sums, row * (w.stride[0] * plan.row_words) + column, weights)
        evaluate(call("int32", "armv6_m_taps", *(words.address(place) for place in places)))
        place = let((row * w.out_width + column) * w.channels + channel)
        words_ = [let(words[sums + i]) for i in range(plan.words)]
        low = [let(word << 16 >> 16) for word in words_] if plan.paired else words_
        for i, total in enumerate(low):
            y[place + i * w.channels] = cast(steps.write(total, constants), "int8")
        if plan.paired:
            high = [let(subtract(word, part) >> 16) for word, part in zip(words_, low, strict=True)]
            with when(row < w.out_height - plan.half):
                for i, total in enumerate(high):
                    code = cast(steps.write(total, constants), "int8")
                    y[place + (plan.half * w.out_width + i) * w.channels] = code
