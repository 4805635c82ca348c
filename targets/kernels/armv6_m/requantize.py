"""Requantize without a 64-bit product: a shorter linear step, proved equal to the definition for every accumulator.

The definition multiplies 32 by 32 bits and keeps the high word; Armv6-M has no such instruction, and building it from
16-bit halves takes four multiplications. But a channel's accumulator has a range that the weights prove, and its code
is a step function with at most 255 steps. So a multiplier of fewer bits, cut into digits whose products with that
accumulator fit 32 bits, often gives the same code everywhere; whether it does is checked at every step. Where it does
not, one digit more is taken; in the end the digits hold the whole multiplier.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import Requantize, requantize
from qkd.tir.tir import Expr, Operand, Pointer, clamp, let

MAX_DIGITS = 6
WORD_BITS = 31


@dataclass(frozen=True, eq=False)
class DigitRequantize:
    """`clamp((acc * digits + offset) >> shift)`, the digits from the lowest on, each `digit_bits` above the last.

    Every product and sum fits int32 for the accumulators that it was proved for.
    """

    digits: NDArray[np.int64]
    """(C, D), only the last one signed."""
    offset: NDArray[np.int64]
    digit_bits: int
    shift: int
    qmin: int
    qmax: int

    @property
    def table(self) -> NDArray[np.int32]:
        """What `write` reads for each channel: [C][D + 1]."""
        return np.column_stack([self.digits, self.offset]).astype(np.int32)

    def apply(self, acc: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the device computes, for accumulators (C, N)."""
        total = np.zeros_like(acc)
        for digit in self.digits.T:
            total = (total >> self.digit_bits) + acc * digit[:, None]
        return np.asarray(((total + self.offset[:, None]) >> self.shift).clip(self.qmin, self.qmax))

    def constants(self, table: Pointer, channel: Operand) -> list[Expr]:
        """A channel's digits and offset."""
        width = self.digits.shape[1] + 1
        return [let(table[channel * width + i]) for i in range(width)]

    def write(self, acc: Expr, constants: list[Expr]) -> Expr:
        """Requantize one accumulator; the code is still int32."""
        *digits, offset = constants
        total = acc * digits[0]
        for digit in digits[1:]:
            total = (total >> self.digit_bits) + acc * digit
        return clamp((total + offset) >> self.shift, self.qmin, self.qmax)


def accumulator_range(rows: NDArray[np.int64], qmin: int, qmax: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the largest accumulator of each row of weights (C, K), whatever the input; zero lies between."""
    low = np.minimum(rows * qmin, rows * qmax).sum(axis=1)
    high = np.maximum(rows * qmin, rows * qmax).sum(axis=1)
    return np.minimum(low, 0), np.maximum(high, 0)


def digit_requantize(rq: Requantize, low: NDArray[np.int64], high: NDArray[np.int64]) -> DigitRequantize | None:
    """Find the fewest digits that give the codes of `rq` for every accumulator from `low` to `high`.

    Parameters
    ----------
    rq : Requantize
        With C entries, or one for all channels.
    low, high : int64 arrays of shape (C,)
        `low <= 0 <= high`.

    Returns
    -------
    DigitRequantize or None
        None where even `MAX_DIGITS` do not prove equal.
    """
    points = _corner_points(rq, low, high)
    expected = requantize(points, rq, _column(rq.multiplier, low), _column(rq.offset, low))
    for digits in range(1, MAX_DIGITS + 1):
        steps = _with_digits(rq, low, high, digits)
        if steps is not None and np.array_equal(steps.apply(points), expected):
            return steps
    return None


def _column(values: tuple[int, ...], like: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.broadcast_to(np.array(values, np.int64), like.shape)[:, None]


def _corner_points(rq: Requantize, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
    """Accumulators (C, N) on both sides of every step, and the ends: two functions that both rise, or both fall, and
    agree on all of them agree everywhere between."""
    factor = _column(rq.multiplier, low) << rq.pre_shift
    codes = np.arange(rq.qmin, rq.qmax + 2, dtype=np.int64)
    distance = (codes << rq.shift) - _column(rq.offset, low)  # the step is where acc * factor reaches it, times 2**32
    step = -(-(distance << 32) // np.where(factor == 0, 1, factor))
    points = np.concatenate([step - 1, step, step + 1, low[:, None], high[:, None]], axis=1)
    return points.clip(low[:, None], high[:, None])


def _with_digits(rq: Requantize, low: NDArray[np.int64], high: NDArray[np.int64], count: int) -> DigitRequantize | None:
    """The closest step of `count` digits that fits int32, or None where no shift does."""
    largest = int(np.maximum(-low, high).max())
    factor = _column(rq.multiplier, low)[:, 0] << rq.pre_shift
    exponent = 32 + rq.shift
    reach = np.abs(factor) / 2.0**exponent * largest + np.abs(_column(rq.offset, low)[:, 0]) / 2.0**rq.shift + 2.0
    shift = min(24, WORD_BITS - int(np.ceil(np.log2(reach.max()))))
    bits = WORD_BITS - 1 - max(1, largest.bit_length())
    if shift < 0 or bits < 1:
        return None
    multiplier = _rescaled(factor, exponent - shift - bits * (count - 1))
    digits = [multiplier >> bits * i & (1 << bits) - 1 for i in range(count - 1)]
    digits.append(multiplier >> bits * (count - 1))
    offset = _rescaled(_column(rq.offset, low)[:, 0], rq.shift - shift)
    return DigitRequantize(np.stack(digits, axis=1), offset, bits, shift, rq.qmin, rq.qmax)


def _rescaled(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """`values / 2**bits`, rounded half up; exact where `bits` is negative."""
    return values << -bits if bits <= 0 else (values + (1 << (bits - 1))) >> bits
