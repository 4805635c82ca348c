"""The kernel of a convolution by `Rows`: rows in, expanded, multiplied or looked up, rows out."""

from collections.abc import Iterable, Sequence

from qkd.graph.graph import Conv2d, Conv2dAdd, QuantGraph
from qkd.targets.kernels.armv6_m.assembly import HALF, Runs, lookup_ir, multiply_ir, table_ir, unpack_ir
from qkd.targets.kernels.armv6_m.requantize import DigitRequantize
from qkd.targets.kernels.armv6_m.rows import Lookup, Multiply, Rows
from qkd.targets.kernels.epilogue import split_addend, store
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import reached_rows, rolled
from qkd.tir.kernel import Constant, Kernel
from qkd.tir.tir import Expr, Pointer, branch, call, constant, evaluate, let, minimum, when, widen

PRELUDE = """
define i32 @armv6_m_subtract(i32 %a, i32 %b) {
  %difference = sub i32 %a, %b
  ret i32 %difference
}
"""
"""Arithmetic modulo 2**32; sums of TIR must not overflow."""

SUM_UNROLL = 4
"""Weights in a turn of a loop that runs rarely."""

Convolution = Conv2d | Conv2dAdd


def subtract(a: Expr, b: Expr) -> Expr:
    """Difference of two int32 modulo 2**32."""
    return call("int32", "armv6_m_subtract", a, b)


def rows_kernel(
    graph: QuantGraph, op: Convolution, plan: Rows, steps: DigitRequantize, packed: Constant, why: str
) -> Kernel:
    """Write the kernel of a plan.

    Parameters
    ----------
    graph : QuantGraph
    op : Conv2d or Conv2dAdd
    plan : Rows
    steps : DigitRequantize
        Proved for the accumulators of `op`.
    packed : int8 or uint8 array
        Weights as `plan.scheme` reads them: bytes of a run after the other, or fractions of codes.
    why : str
    """

    def body(x: Pointer, *pointers: Pointer) -> None:
        addend, rest = split_addend(op, pointers)
        _Writer(graph, op, plan, steps, x, addend, rest).write()

    return make_kernel(graph, op, body, (packed, steps.table), plan.scratch_bytes, isinstance(op, Conv2dAdd),
                       variant=plan.variant, why=why, prelude=PRELUDE + inner_loops(plan))  # fmt: skip


def inner_loops(plan: Rows) -> str:
    """The assembly of a plan."""
    s, channels, pitch = plan.scheme, plan.out_channels, plan.window.kernel[0] * plan.run
    if isinstance(s, Lookup):
        run = lookup_ir("armv6_m_run", plan.words, Runs(2 * plan.part, 2 * pitch, channels), plan.wide)
        sizes = 4 * plan.words, 4 * plan.unit_words
        unpack = unpack_ir("armv6_m_unpack", s.unit_entries, s.codes_per_fraction, *sizes, plan.part)
        return run + unpack + table_ir("armv6_m_table", plan.words, s.levels, s.group)
    run = multiply_ir("armv6_m_run", plan.words, s.bits, Runs(plan.part, pitch, channels), plan.wide)
    return run + multiply_ir("armv6_m_sum", plan.words, s.bits, Runs(plan.part, plan.part, 1), False, SUM_UNROLL)


class _Writer:
    """Records the kernel; holds what every part of it needs."""

    def __init__(self, graph: QuantGraph, op: Convolution, plan: Rows, steps: DigitRequantize, x: Pointer,
                 addend: Pointer | None, pointers: Sequence[Pointer]) -> None:  # fmt: skip
        self.op, self.plan, self.window, self.steps = op, plan, plan.window, steps
        self.zero_point = graph.values[op.input].qparams.zero_point
        self.pixels = graph.values[op.input].elements // plan.window.channels
        self.out_pixels = graph.values[op.output].elements // plan.out_channels
        self.in_words = graph.storage(op.input) not in graph.inputs and plan.window.channels % 4 == 0
        self.x, self.addend = x, addend
        self.weights, self.table, self.y, self.bytes = pointers
        self.words = self.bytes.view("int32")

    def write(self) -> None:
        """Take padded input rows one after the other; finish an output row with its last one."""
        plan, w = self.plan, self.window
        self._begin()
        with rolled(plan.row_count) as row:
            self._expand_row(row * plan.input_step[0] - w.padding[0])
            with reached_rows(row, w, plan.stride[0]) as (out_row, window_row):
                self._accumulate_row(out_row, window_row)

    def _begin(self) -> None:
        """Write what stays: margins of the row, the start of lookups and their codes, weights that are all 0."""
        plan, scheme = self.plan, self.plan.scheme
        if not plan.is_direct:
            self._fill(self.bytes, constant(4 * plan.row_word), plan.row_pixels * self.window.channels, self.zero_point)
        if isinstance(scheme, Lookup):
            self._fill(self.words, constant(plan.starts_word), plan.words, HALF if plan.wide else 0)
            self._unpack_codes(scheme)
        else:
            zeros = sum(scheme.zero << scheme.bits * i for i in range(scheme.group))
            self._fill(self.bytes, constant(4 * plan.codes_word), plan.part, (zeros & 0xFF ^ 0x80) - 0x80)

    @staticmethod
    def _fill(pointer: Pointer, at: Expr, count: int, value: int) -> None:
        with rolled(count) as i:
            pointer[at + i] = value

    def _unpack_codes(self, scheme: Lookup) -> None:
        """Write the codes, two bytes each."""
        first = 4 * self.plan.codes_word
        places = (first, first + 2 * self.plan.fractions * scheme.codes_per_fraction)
        codes, end = (self.bytes.address(place) for place in places)
        evaluate(call("int32", "armv6_m_unpack", codes, self.weights.address(0), end))

    # A row comes in.

    def _expand_row(self, row: Expr) -> None:
        plan = self.plan
        if plan.is_direct:
            self._expand(self.x, let(self._row_pixel(row, self.window.width, self.pixels) * self.window.channels))
        else:
            self._copy_row(row)
            self._expand(self.bytes, constant(4 * plan.row_word))
        if isinstance(plan.scheme, Multiply):
            self._write_starts(plan.scheme)

    def _copy_row(self, row: Expr) -> None:
        """Copy an input row between its margins; a row outside the input is all padding."""
        plan, w = self.plan, self.window
        start = 4 * plan.row_word + w.padding[2] * w.channels
        count = min(w.width, plan.row_pixels - w.padding[2]) * w.channels

        def copy() -> None:
            source = let(self._row_pixel(row, w.width, self.pixels) * w.channels)
            if self.in_words:
                words = self.x.view("int32")
                first = let(source // 4)
                with rolled(count // 4) as i:
                    self.words[start // 4 + i] = words[first + i]
            else:
                with rolled(count) as i:
                    self.bytes[start + i] = self.x[source + i]

        def fill() -> None:
            self._fill(self.bytes, constant(start), count, self.zero_point)

        branch((row >= 0) & (row < w.height), copy, fill) if any(w.padding[:2]) else copy()

    @staticmethod
    def _row_pixel(row: Expr, width: int, pixels: int) -> Expr:
        """First pixel of a row; the last short row of a 1x1 convolution overlaps the one before."""
        start = row * width
        return start if pixels % width == 0 else minimum(start, pixels - width)

    def _expand(self, source: Pointer, start: Expr) -> None:
        """Expand every unit of every position."""
        plan, w = self.plan, self.window
        whole, rest = divmod(w.channels, plan.scheme.group)
        with rolled(plan.positions) as position:
            pixel = let(start + position * (plan.input_step[1] * w.channels))
            target = let(position * (plan.units * plan.unit_words))
            if whole:
                with rolled(whole) as unit:
                    self._expand_unit(source, let(pixel + unit * plan.scheme.group), plan.scheme.group,
                                      let(target + unit * plan.unit_words))  # fmt: skip
            if rest:
                last = pixel + whole * plan.scheme.group, target + whole * plan.unit_words
                self._expand_unit(source, let(last[0]), rest, let(last[1]))

    def _expand_unit(self, source: Pointer, first: Expr, channels: int, target: Expr) -> None:
        s, n = self.plan.scheme, self.plan.words
        codes = [self._lane_words(source, first + c) for c in range(channels)]
        codes += [[constant(0)] * n] * (s.group - channels)
        if isinstance(s, Multiply):
            for digit, here in enumerate(codes):
                below = codes[digit - 1] if digit else [constant(0)] * n
                for i in range(n):
                    self.words[target + (digit * n + i)] = here[i] - (below[i] << s.bits) if digit else here[i]
            return
        vectors = self.plan.vectors_word
        for number, vector in enumerate(_table_steps(codes, s)):
            for i, word in enumerate(vector):
                self.words[vectors + number * n + i] = word
        places = self.words.address(target), self.words.address(vectors)
        evaluate(call("int32", "armv6_m_table", *places))

    def _lane_words(self, source: Pointer, first: Expr) -> list[Expr]:
        """The codes of one channel in all lanes."""
        n, step = self.plan.words, self.plan.lane_bytes
        low = [widen(source[first + i * step]) for i in range(n)]
        if not self.plan.paired:
            return [let(code) for code in low]
        return [let(code + (widen(source[first + (i + n) * step]) << 16)) for i, code in enumerate(low)]

    def _write_starts(self, scheme: Multiply) -> None:
        """Where runs start: minus what the zero of the unsigned weights adds, as a run of such zeros tells."""
        plan = self.plan
        nothing, total = plan.vectors_word, plan.vectors_word + plan.words
        self._fill(self.words, constant(nothing), plan.words, 0)
        with rolled(plan.chunks) as chunk, rolled(plan.lane_columns) as column:
            self._fill(self.words, constant(total), plan.words, 0)
            self._run("armv6_m_sum", constant(total), column, chunk, self._zero_weights(), constant(nothing))
            with rolled(plan.words) as i:
                start = plan.starts_word + (chunk * plan.lane_columns + column) * plan.words + i
                self.words[start] = subtract(constant(HALF if plan.wide else 0), self.words[total + i])

    def _zero_weights(self) -> Expr:
        return self.bytes.address(4 * self.plan.codes_word)

    # It meets the weights.

    def _accumulate_row(self, out_row: Expr, window_row: Expr) -> None:
        plan, height = self.plan, self.window.kernel[0]
        sums = let(out_row % plan.live_rows * plan.sums_row_words + plan.sums_word)
        with when(window_row.equals(0)):
            self._fill(self.words, sums, plan.sums_row_words, 0)
        with rolled(plan.lane_columns) as column, rolled(plan.chunks) as chunk:
            at = let(sums + column * (plan.out_channels * plan.sum_words))
            weights = let(window_row * plan.run + chunk * plan.part)
            if isinstance(plan.scheme, Multiply):
                start = plan.starts_word + (chunk * plan.lane_columns + column) * plan.words
                self._run("armv6_m_run", at, column, chunk, self.weights.address(weights), start)
            else:
                place = self.bytes.address(weights * 2 + 4 * plan.codes_word)
                self._run("armv6_m_run", at, column, chunk, place, constant(plan.starts_word))
        with when(window_row.equals(height - 1)):
            self._finish_row(out_row, sums)

    def _run(self, name: str, sums: Expr, column: Expr, chunk: Expr, weights: Expr, start: Expr) -> None:
        """A part of a window row for one column of lanes and all channels."""
        plan = self.plan
        first = (column * (plan.stride[1] * plan.units) + chunk * plan.part) * plan.unit_words
        places = self.words.address(sums), self.words.address(first), weights, self.words.address(start)
        evaluate(call("int32", name, *places))

    # A row goes out.

    def _finish_row(self, out_row: Expr, sums: Expr) -> None:
        plan, w = self.plan, self.window
        pixel = let(self._row_pixel(out_row, w.out_width, self.out_pixels))
        with rolled(plan.out_channels) as channel:
            constants = self.steps.constants(self.table, channel)
            with rolled(plan.lane_columns) as column:
                at = let(sums + (column * plan.out_channels + channel) * plan.sum_words)
                place = let((pixel + column) * plan.out_channels + channel)
                for lane, total in self._lane_sums(at):
                    target = place + lane * plan.lane_columns * plan.out_channels
                    missing = plan.lane_columns * (lane + 1) - w.out_width
                    if missing <= 0:
                        self._store(target, total, constants)
                    elif missing < plan.lane_columns:
                        with when(column < plan.lane_columns - missing):
                            self._store(target, total, constants)

    def _store(self, target: Expr, total: Expr, constants: list[Expr]) -> None:
        store(self.y, target, self.steps.write(total, constants), self.op, self.addend)

    def _lane_sums(self, at: Expr) -> Iterable[tuple[int, Expr]]:
        """The sum of each lane."""
        plan, n = self.plan, self.plan.words
        for i in range(n):
            word = let(self.words[at + i])
            if not plan.paired:
                yield i, word
            elif plan.wide:
                high = let(self.words[at + (n + i)])
                runs = self.window.kernel[0] * plan.chunks * HALF
                yield i, let(subtract(subtract(word, high << 16), constant(runs)))
                yield i + n, high
            else:
                low = let(word << 16 >> 16)
                yield i, low
                yield i + n, let(subtract(word, low) >> 16)


def _table_steps(codes: list[list[Expr]], scheme: Lookup) -> list[list[Expr]]:
    """The first entry of a table, then what each digit adds when it steps up and all digits before it fall to 0."""
    lanes = list(zip(*codes, strict=True))
    first = [_sum([code * scheme.lowest for code in lane]) for lane in lanes]
    steps = []
    for digit in range(scheme.group):
        steps.append([let(lane[digit] - _sum([code * (scheme.levels - 1) for code in lane[:digit]])) for lane in lanes])
    return [[let(word) for word in first], *steps]


def _sum(terms: list[Expr]) -> Expr:
    total = constant(0)
    for term in terms:
        total = total + term
    return total
