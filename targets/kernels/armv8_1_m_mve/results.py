"""From sums of products to results on MVE: requantize or add the bias, four channels at a time, and store them."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import BiasAdd, Requantize
from qkd.targets.kernels.armv8_1_m_mve.vectors import QUAD, mulhi, narrow
from qkd.targets.kernels.epilogue import align
from qkd.tir.tir import Expr, Pointer, constant, lane, let, when


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


@dataclass(frozen=True)
class Logits:
    """A BiasAdd for accumulators that carry a factor; `table` is [quad][4] int32."""

    table: NDArray[np.int32]
    shift_left: int


Finish: TypeAlias = Rescale | Logits


def finish_of(epilogue: Requantize | BiasAdd, channels: int, acc_bound: int, scale_bits: int) -> Finish | None:
    """What to do with accumulators times `2**scale_bits`; None where they could leave int32."""
    if isinstance(epilogue, Requantize):
        return rescale(epilogue, channels, acc_bound, scale_bits)
    if acc_bound << scale_bits >= 2**31:
        return None
    padded = np.zeros(-(-channels // QUAD) * QUAD, np.int32)
    padded[:channels] = epilogue.offset
    return Logits(padded.reshape(-1, QUAD), epilogue.pre_shift - scale_bits)


def unsafe_finish(epilogue: Requantize | BiasAdd, acc_bound: int, scale_bits: int) -> str:
    """Why `finish_of` is None: the bound that is broken, in words."""
    shift = max(scale_bits, epilogue.pre_shift) if isinstance(epilogue, Requantize) else scale_bits
    if acc_bound << shift >= 2**31:
        return f"the accumulator's bound times 2**{shift} is {acc_bound << shift:,}; it must stay below 2**31"
    return f"an offset times 2**{shift - epilogue.pre_shift} is not below 2**30"


def load_parameters(table: Pointer, quad: Expr, finish: Finish) -> tuple[Expr, ...]:
    """What `finish_quad` needs of four channels, in vectors."""
    if isinstance(finish, Logits):
        return (let(table.load(quad * QUAD, QUAD)),)
    start = quad * (2 * QUAD)
    return let(table.load(start, QUAD)), let(table.load(start + QUAD, QUAD))


def finish_quad(acc: Expr, parameters: tuple[Expr, ...], finish: Finish) -> Expr:
    """Results of four channels: int32x4 → int8x4, or int32x4 logits."""
    if isinstance(finish, Logits):
        return align(acc, finish.shift_left) + parameters[0]
    multiplier, offset = parameters
    scaled = let(mulhi(acc << finish.pre_shift, multiplier) + offset)
    return narrow(scaled, finish.shift, finish.qmin, finish.qmax)


def store_quad(y: Pointer, at: Expr, result: Expr, quad: Expr, channels: int) -> None:
    """Store four channels of a pixel; of the last quad only those that exist."""
    if channels % QUAD == 0:
        y[at] = result
        return
    held = let(result)
    for i in range(QUAD):
        with when(quad * QUAD + constant(i) < channels):
            y[at + i] = lane(held, i)
