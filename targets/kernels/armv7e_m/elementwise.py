"""Residual add and average pool for the DSP extension."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from qkd.graph.fixed_point import AddRescale
from qkd.graph.graph import Add, AveragePool2d, Conv2dAdd, Op, QuantGraph
from qkd.targets.kernels.armv7e_m.activations import PRELUDE, load_word
from qkd.targets.kernels.bounds import largest_code
from qkd.targets.kernels.epilogue import align, split_addend
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import rolled, unrolled_add
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Operand, Pointer, Register, cast, clamp, constant, intrinsic, let, mulhi, widen


def saturate(value: Expr, shift: int, qmin: int, qmax: int) -> Expr:
    """`clamp(value >> shift, qmin, qmax)` as one SSAT or USAT where the limits are those of a number of bits."""
    bits = (qmax - qmin).bit_length()
    shifted = value >> shift
    for name, low in (("ssat", -(1 << bits - 1)), ("usat", 0)):
        if (qmin, qmax) == (low, low + (1 << bits) - 1):
            return intrinsic("int32", f"llvm.arm.{name}", shifted, constant(bits))
    return clamp(shifted, qmin, qmax)


@dataclass(frozen=True, eq=False)
class Addend:
    """What a fused kernel adds to its codes."""

    codes: Pointer
    rescale: AddRescale
    factors: tuple[Expr, Expr, Expr]
    """Both multipliers and the offset."""

    def add_to(self, code: Expr, at: Operand) -> Expr:
        """Add to the code of element `at`, before any later store: that could be to the same memory."""
        multiplier_a, multiplier_b, offset = self.factors
        total = widen(self.codes[at]) * multiplier_b + (code * multiplier_a + offset)
        return let(saturate(total, self.rescale.shift, self.rescale.qmin, self.rescale.qmax))


def addend_of(
    op: Op, pointers: Sequence[Pointer], number: Callable[[int], Expr] = constant
) -> tuple[Addend | None, Sequence[Pointer]]:
    """The addend of a `Conv2dAdd`, None for others, and the pointers behind it.

    With `opaque` as `number`, before the loops, a factor is one load from the stack; else it is two instructions.
    """
    addend, rest = split_addend(op, pointers)
    if addend is None or not isinstance(op, Conv2dAdd):
        return None, rest
    p = op.rescale
    return Addend(addend, p, (let(number(p.multiplier_a)), let(number(p.multiplier_b)), let(number(p.offset)))), rest


def add_kernel(graph: QuantGraph, op: Add) -> Kernel:
    """Add by two multiply-accumulates and a saturating shift an element; works in place."""
    p = op.epilogue

    def added(a: Expr, b: Expr) -> Expr:
        total = widen(b) * p.multiplier_b + (widen(a) * p.multiplier_a + p.offset)
        return saturate(total, p.shift, p.qmin, p.qmax)

    return unrolled_add(graph, op, added, "mla")


def average_pool_kernels(graph: QuantGraph, op: AveragePool2d) -> Iterator[Kernel]:
    """Sum four channels at a time in int16, where no sum can leave it."""
    w, rq = window_of(graph, op), op.epilogue
    if w.channels % 4 or largest_code(graph.values[op.input]) * w.taps >= 2**15:
        return

    def body(x: Pointer, y: Pointer) -> None:
        with rolled(w.out_height) as row, rolled(w.out_width) as column, rolled(w.channels // 4) as quad:
            first = let((row * (w.stride[0] * w.width) + column * w.stride[1]) * w.channels + quad * 4)
            sums = [Register(), Register()]
            with rolled(w.kernel[0]) as i, rolled(w.kernel[1]) as j:
                word = load_word(x, first + (i * w.width + j) * w.channels)
                rotated = intrinsic("int32", "llvm.fshr", word, word, constant(8))
                for total, codes in zip(sums, (word, rotated), strict=True):
                    total.value = intrinsic("int32", "llvm.arm.sxtab16", total.value, codes)
            at = let((row * w.out_width + column) * w.channels + quad * 4)
            for channel in range(4):
                pair = sums[channel % 2].value
                total_sum = pair >> 16 if channel >= 2 else pair << 16 >> 16
                scaled = mulhi(align(total_sum, rq.pre_shift), constant(rq.multiplier[0])) + rq.offset[0]
                y[at + channel] = cast(saturate(scaled, rq.shift, rq.qmin, rq.qmax), "int8")

    why = f"max|q| * {w.taps} positions < 2**15"
    yield make_kernel(graph, op, body, variant="sxtab16", why=why, prelude=PRELUDE)
