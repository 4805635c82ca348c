"""Instructions of Armv8.1-M's vector extension (MVE, Helium) that TVM has no word for, and requantize on four lanes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.fixed_point import Requantize
from qkd.tir import Expr, Operand, call, cast, clamp, constant, intrinsic, let, mulhi, reinterpret

LANES = 16
"""Codes of eight bits in a vector."""

QUAD = 4
"""Accumulators of 32 bits in a vector: results are requantized four at a time."""

NARROWING_SHIFT_LIMIT = 16
"""Largest shift that VQSHRNB encodes."""

PRELUDE = """
declare void @llvm.assume(i1)
define i32 @mve_trip_count(i32 %count) {
  %hidden = call i32 asm "", "=r,0"(i32 %count)
  %positive = icmp sgt i32 %hidden, 0
  call void @llvm.assume(i1 %positive)
  ret i32 %hidden
}
"""
"""LLVM IR for `call`, besides what every kernel has."""


@dataclass(frozen=True)
class Rescale:
    """A Requantize for accumulators that carry a factor of two to some power, with every proof done.

    `table` is [quad][multiplier or offset][4] int32, padded with zeros to whole quads of channels.
    """

    table: NDArray[np.int32]
    pre_shift: int
    shift: int
    qmin: int
    qmax: int


def rescale(rq: Requantize, channels: int, acc_bound: int, scale_bits: int) -> Rescale | None:
    """Fold a factor `2**scale_bits` of the accumulator into a requantize, exactly.

    Where the factor is larger than pre_shift wants, offset and shift grow instead: they count in units that are
    `2**(scale_bits - pre_shift)` times smaller, and floor(floor(x) / n) == floor(x / n).

    Parameters
    ----------
    rq : Requantize
        With one entry a channel, or one for all.
    channels : int
    acc_bound : int
        No accumulator's magnitude, without the factor, can exceed it.
    scale_bits : int

    Returns
    -------
    Rescale or None
        None where an accumulator or a sum could leave int32: the caller must take a kernel without the factor.
    """
    surplus = max(0, scale_bits - rq.pre_shift)
    offset = np.array(rq.offset, np.int64) << surplus
    # |multiplier| < 2**31 and |acc| < 2**31 make |mulhi| <= 2**30, so an offset below 2**30 keeps their sum in int32.
    if acc_bound << max(scale_bits, rq.pre_shift) >= 2**31 or int(np.abs(offset).max()) >= 2**30:
        return None
    table = np.zeros((2, -(-channels // QUAD) * QUAD), np.int32)
    table[:, :channels] = np.array([rq.multiplier, offset])
    quads = table.reshape(2, -1, QUAD).transpose(1, 0, 2)
    return Rescale(quads.copy(), max(0, rq.pre_shift - scale_bits), rq.shift + surplus, rq.qmin, rq.qmax)


def requantize_quad(acc: Expr, multiplier: Expr, offset: Expr, rq: Rescale) -> Expr:
    """Requantize four accumulators: int32x4 → int8x4."""
    return narrow(let(mulhi(acc << rq.pre_shift, multiplier) + offset), rq.shift, rq.qmin, rq.qmax)


def narrow(value: Expr, shift: int, qmin: int, qmax: int) -> Expr:
    """Shift right, clamp to [qmin, qmax] and keep the low byte of each lane: int32x4 → int8x4.

    Saturating to int16 and then to int8 is clamping, and takes one instruction each with the shift inside.
    """
    last = min(shift, NARROWING_SHIFT_LIMIT)
    halves = _narrow_halves(value >> (shift - last), last)
    codes = intrinsic("int8x16", "llvm.arm.mve.vqmovn", reinterpret(halves, "int8x16"), halves, *_flags(0, 0, 0))
    if qmin > -128 or qmax < 127:
        codes = clamp(codes, qmin, qmax)
    return cast(reinterpret(codes, "int32x4"), "int8")


def _narrow_halves(value: Expr, shift: int) -> Expr:
    """int32x4 → int16 in the even lanes of an int16x8; the odd lanes hold rubbish."""
    keep = reinterpret(value, "int16x8")
    if shift == 0:
        return intrinsic("int16x8", "llvm.arm.mve.vqmovn", keep, value, *_flags(0, 0, 0))
    saturate, rounded, unsigned_out, unsigned_in, top = 1, 0, 0, 0, 0
    flags = _flags(shift, saturate, rounded, unsigned_out, unsigned_in, top)
    return intrinsic("int16x8", "llvm.arm.mve.vshrn", keep, value, *flags)


def dot(acc: Expr, codes: Expr, weights: Expr) -> Expr:
    """`acc` plus the sum of 16 products of int8 lanes: VMLADAVA.S8."""
    unsigned, subtract, exchange = 0, 0, 0
    flags = _flags(unsigned, subtract, exchange)
    return intrinsic("int32", "llvm.arm.mve.vmldava", *flags, acc, codes, weights)


def trip_count(count: int) -> Operand:
    """A positive number of iterations that LLVM does not know: it makes a hardware loop and does not unroll."""
    return call("int32", "mve_trip_count", constant(count))


def _flags(*values: int) -> tuple[Expr, ...]:
    return tuple(constant(value) for value in values)
