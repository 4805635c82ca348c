"""The body of the ternary lookup kernel: tables of an input row, sums of output rows, epilogue."""

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Conv2d, Conv2dAdd, QuantGraph
from qkd.targets.kernels.armv7e_m.activations import PRELUDE, load_word
from qkd.targets.kernels.armv7e_m.elementwise import Addend, addend_of, saturate
from qkd.targets.kernels.armv7e_m.lookup_geometry import (
    ENTRIES,
    ENTRIES_PER_FRACTION,
    GROUP,
    LANES,
    TABLE_WORDS,
    TILE_CHANNELS,
    Lookup,
)
from qkd.targets.kernels.armv7e_m.lookup_ir import lookup_ir
from qkd.targets.kernels.epilogue import align, channel_table
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import fill_words, reached_rows, rolled
from qkd.tir.kernel import Kernel
from qkd.tir.tir import (
    Expr,
    Pointer,
    branch,
    call,
    cast,
    constant,
    evaluate,
    intrinsic,
    let,
    minimum,
    mulhi,
    when,
    widen,
)


def lookup_kernel(
    graph: QuantGraph, op: Conv2d | Conv2dAdd, plan: Lookup, packed: NDArray[np.uint8], why: str
) -> Kernel:  # fmt: skip
    """Write the kernel of a plan."""

    def body(x: Pointer, *pointers: Pointer) -> None:
        addend, (fractions, table, y, scratch) = addend_of(op, pointers)
        writer = _Writer(graph, op, plan, x, fractions, table, y, scratch, addend)
        writer.write()

    inner_loop = lookup_ir(4 * TABLE_WORDS, plan.run // plan.chunks, plan.wide)
    constants = (packed, channel_table(op.epilogue))
    out_pixels = graph.values[op.output].elements // plan.out_channels
    in_place = isinstance(op, Conv2dAdd) and out_pixels % plan.window.out_width == 0  # else short rows overlap
    return make_kernel(graph, op, body, constants, plan.scratch_bytes, in_place, variant=plan.variant, why=why,
                       prelude=PRELUDE + inner_loop)  # fmt: skip


class _Writer:
    """Records the kernel; holds what every part of it needs."""

    def __init__(
        self, graph: QuantGraph, op: Conv2d | Conv2dAdd, plan: Lookup, x: Pointer, fractions: Pointer, table: Pointer,
        y: Pointer, scratch: Pointer, addend: Addend | None,
    ) -> None:  # fmt: skip
        self.entry, self.rq, self.addend = graph.values[op.input], op.epilogue, addend
        self.pixels = self.entry.elements // plan.window.channels
        self.out_pixels = graph.values[op.output].elements // plan.out_channels
        self.plan, self.window = plan, plan.window
        self.x, self.fractions, self.table, self.y = x, fractions, table, y
        self.bytes, self.words = scratch, scratch.view("int32")

    def write(self) -> None:
        """Take padded input rows one after the other; finish an output row with its last one."""
        plan, w = self.plan, self.window
        height, step = w.kernel[0], w.stride[0]
        self._unpack_codes()
        with rolled(plan.row_pixels * w.channels) as i:
            self.bytes[plan.row_byte + i] = self.entry.qparams.zero_point
        with rolled((w.out_height - 1) * step + height) as row:
            self._load_row(row - w.padding[0])
            self._build_tables()
            with reached_rows(row, w, step) as (out_row, window_row):
                self._accumulate_row(out_row, window_row)

    def _accumulate_row(self, out_row: Expr, window_row: Expr) -> None:
        plan, height = self.plan, self.window.kernel[0]
        sums = let(out_row % plan.live_rows * plan.sums_row_words + plan.sums_word)
        with when(window_row.equals(0)):
            fill_words(self.words, sums, plan.sums_row_words, 0)
        with rolled(plan.out_channels // TILE_CHANNELS) as tile:
            code = let((tile * height + window_row) * plan.run + plan.codes_byte // 4)
            with rolled(plan.lane_columns) as column:
                at = let(sums + (tile * plan.lane_columns + column) * plan.tile_words)
                first = let(column * (self.window.stride[1] * plan.groups * TABLE_WORDS))
                self._accumulate_tile(at, code, first)
        with when(window_row.equals(height - 1)):
            self._finish_row(out_row, sums)

    def _unpack_codes(self) -> None:
        """Write the codes, byte offsets into a table, one byte each: digits of the packed fractions in base 27."""
        with rolled(self.plan.fractions) as number:
            fraction = load_word(self.fractions, number * 3) << 8
            for i in range(ENTRIES_PER_FRACTION):
                product = let(zero_extend(fraction) * ENTRIES)
                code = cast(product >> 32 << 3, "int8")
                self.bytes[number * ENTRIES_PER_FRACTION + (self.plan.codes_byte + i)] = code
                fraction = cast(product, "int32")

    def _load_row(self, row: Expr) -> None:
        """Copy an input row between its margins; a row outside the input is all padding."""
        plan, w = self.plan, self.window
        start = plan.row_byte + w.padding[2] * w.channels
        count = min(w.width, plan.row_pixels - w.padding[2]) * w.channels

        def copy() -> None:
            source = let(self._row_pixel(row, w.width, self.pixels) * w.channels)
            if w.channels % 4 == 0:
                with rolled(count // 4) as i:
                    self.words[start // 4 + i] = load_word(self.x, source + i * 4)
            else:
                with rolled(count) as i:
                    self.bytes[start + i] = self.x[source + i]

        def fill() -> None:
            with rolled(count) as i:
                self.bytes[start + i] = self.entry.qparams.zero_point

        branch((row >= 0) & (row < w.height), copy, fill) if any(w.padding[:2]) else copy()

    @staticmethod
    def _row_pixel(row: Expr, width: int, pixels: int) -> Expr:
        """First pixel of a row; the last short row of a 1x1 convolution overlaps the one before."""
        start = row * width
        return start if pixels % width == 0 else minimum(start, pixels - width)

    def _build_tables(self) -> None:
        plan, w = self.plan, self.window
        lane_bytes = plan.lane_columns * w.stride[1] * w.channels
        with rolled(plan.positions) as position, rolled(plan.groups) as group:
            first = let(position * w.channels + group * GROUP + plan.row_byte)
            lanes = [[let(widen(self.bytes[first + (lane * lane_bytes + channel)])) for lane in range(LANES)]
                     for channel in range(GROUP)]  # fmt: skip
            codes = [(let(pack_halves(*four[:2])), let(pack_halves(*four[2:]))) for four in lanes]
            at = let((position * plan.groups + group) * TABLE_WORDS)
            for number, entry in enumerate(table_entries(codes)):
                for half in range(2):
                    self.words[at + (2 * number + half)] = entry[half]

    def _accumulate_tile(self, at: Expr, code: Expr, first: Expr) -> None:
        part = self.plan.run // self.plan.chunks
        with rolled(self.plan.chunks) as chunk:
            codes = self.words.address(code + chunk * part)
            tables = self.words.address(first + chunk * (part * TABLE_WORDS))
            evaluate(call("int32", "armv7e_m_lookup", self.words.address(at), codes, tables))

    def _finish_row(self, out_row: Expr, sums: Expr) -> None:
        plan, w = self.plan, self.window
        pixel = let(self._row_pixel(out_row, w.out_width, self.out_pixels))
        with rolled(plan.out_channels // TILE_CHANNELS) as tile, rolled(plan.lane_columns) as column:
            at = let(sums + (tile * plan.lane_columns + column) * plan.tile_words)
            place = let((pixel + column) * plan.out_channels + tile * TILE_CHANNELS)
            for channel in range(TILE_CHANNELS):
                multiplier, offset = (let(self.table[(tile * TILE_CHANNELS + channel) * 2 + i]) for i in range(2))
                for lane in range(LANES):
                    scaled = mulhi(align(self._sum(at, channel, lane), self.rq.pre_shift), multiplier) + offset
                    code = saturate(scaled, self.rq.shift, self.rq.qmin, self.rq.qmax)
                    target = place + (lane * plan.lane_columns * plan.out_channels + channel)
                    missing = plan.lane_columns * (lane + 1) - w.out_width
                    if missing <= 0:
                        self._store(target, code)
                    elif missing < plan.lane_columns:
                        with when(column < plan.lane_columns - missing):
                            self._store(target, code)

    def _store(self, at: Expr, code: Expr) -> None:
        self.y[at] = cast(code if self.addend is None else self.addend.add_to(code, at), "int8")

    def _sum(self, at: Expr, channel: int, lane: int) -> Expr:
        if self.plan.wide:
            return self.words[at + (channel * LANES + lane)]
        return halves(self.words[at + (2 * channel + lane // 2)])[lane % 2]


def table_entries(codes: list[tuple[Expr, Expr]]) -> list[tuple[Expr, Expr]]:
    """The sums of three codes times {-1, 0, 1}, the first one's factor changing fastest; lanes by pairs."""
    zero = constant(0)
    sums: list[tuple[Expr, Expr]] = [(zero, zero)]
    for low, high in reversed(codes):
        sums = [
            (let(combine(a, low)), let(combine(b, high)))
            for a, b in sums
            for combine in (subtract_halves, lambda total, _: total, add_halves)
        ]
    return sums


def add_halves(a: Expr, b: Expr) -> Expr:
    """Sum of two pairs of int16. It saturates, which the proof rules out; SADD16 would write flags as well."""
    return intrinsic("int32", "llvm.arm.qadd16", a, b)


def subtract_halves(a: Expr, b: Expr) -> Expr:
    """Difference of two pairs of int16."""
    return intrinsic("int32", "llvm.arm.qsub16", a, b)


def pack_halves(low: Expr, high: Expr) -> Expr:
    """Two int32 as a pair of int16."""
    return low & 0xFFFF | high << 16


def halves(pair: Expr) -> tuple[Expr, Expr]:
    """A pair of int16 as two int32."""
    return pair << 16 >> 16, pair >> 16


def zero_extend(value: Expr) -> Expr:
    """An unsigned 32-bit number as int64."""
    return cast(value, "int64") & 0xFFFFFFFF
