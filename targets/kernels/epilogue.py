"""The last step of every kernel, once for all instruction sets: accumulator → code, as `fixed_point.py` defines it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import AddRescale, BiasAdd, Requantize
from qkd.graph.graph import Conv2dAdd, Op
from qkd.tir.tir import Expr, Operand, Pointer, cast, clamp, mulhi, widen


def channel_table(epilogue: Requantize | BiasAdd) -> NDArray[np.int32]:
    """What `finish` reads for each channel: [C][2] of multiplier and offset, or the [C] offsets of a BiasAdd."""
    if isinstance(epilogue, BiasAdd):
        return np.array(epilogue.offset, np.int32)
    return np.array([epilogue.multiplier, epilogue.offset], np.int32).T.copy()


def finish(
    acc: Expr, epilogue: Requantize | BiasAdd, table: Pointer, channel: Operand, acc_scale_bits: int = 0
) -> Expr:
    """Turn the int32 accumulator of a channel into the result: a code in int32, or an int32 logit.

    Parameters
    ----------
    acc : Expr of int32
        The sum of products, times `2**acc_scale_bits` where the packing of the weights left a factor.
    epilogue : Requantize or BiasAdd
    table : Pointer to int32
        `channel_table(epilogue)`.
    channel : Expr or int
    acc_scale_bits : int
    """
    if isinstance(epilogue, BiasAdd):
        return align(acc, epilogue.pre_shift - acc_scale_bits) + table[channel]
    return requantize(acc, epilogue, table[channel * 2], table[channel * 2 + 1], acc_scale_bits)


def requantize(acc: Expr, rq: Requantize, multiplier: Expr, offset: Expr, acc_scale_bits: int = 0) -> Expr:
    """Requantize one accumulator or a vector of them; the code is still int32.

    The kernel has proved that the accumulator with its factor `2**acc_scale_bits` stays within int32.
    """
    scaled = mulhi(align(acc, rq.pre_shift - acc_scale_bits), multiplier) + offset
    return clamp(scaled >> rq.shift, rq.qmin, rq.qmax)


def align(acc: Expr, bits: int) -> Expr:
    """`acc * 2**bits`; a negative `bits` undoes a factor that the packing left, so nothing is lost."""
    return acc << bits if bits >= 0 else acc >> -bits


def add_rescaled(a: Expr, b: Expr, p: AddRescale) -> Expr:
    """Add two int8 codes, or vectors of them; the code is still int32."""
    total = widen(a) * p.multiplier_a + widen(b) * p.multiplier_b + p.offset
    return clamp(total >> p.shift, p.qmin, p.qmax)


def split_addend(op: Op, pointers: Sequence[Pointer]) -> tuple[Pointer | None, Sequence[Pointer]]:
    """The addend of a `Conv2dAdd`, which kernels get behind the convolution's input, and the pointers after it."""
    return (pointers[0], pointers[1:]) if isinstance(op, Conv2dAdd) else (None, pointers)


def store(y: Pointer, at: Expr, code: Expr, op: Op, addend: Pointer | None) -> None:
    """Store a result, with the addend's code at its place added where there is one."""
    if isinstance(op, Conv2dAdd) and addend is not None:
        code = add_rescaled(code, addend[at], op.rescale)
    y[at] = cast(code, y.dtype)
