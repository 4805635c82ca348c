"""The arithmetic of the firmware: the one definition of requantize that every instruction set implements.

    out = clamp((mulhi(acc << pre_shift, multiplier) + offset) >> shift, qmin, qmax)

`mulhi(a, b)` is the high word of the 64-bit product, `(a * b) >> 32`. The bias, the zero points of input and output and
the rounding half all stand in `offset`, in units of 2**-shift output codes, so a device spends one multiply-accumulate
(SMMLA on Cortex-M, SMULL elsewhere) and one saturating shift on an element, and a channel whose batch-norm scale
is zero keeps its bias. Since floor(floor(x) / n) == floor(x / n), this equals one rounding of the exact product:

    (acc * multiplier * 2**pre_shift + offset * 2**32) >> (32 + shift)

The functions use operators only, so the same code runs on NumPy int64 arrays and on torch int64 tensors:
the training graph's exact mode and the reference share it to the letter.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qkd.errors import UnsupportedOpError

Ints = TypeVar("Ints", bound=Any)  # NDArray[np.int64] or torch.Tensor of int64: both have <<, >>, * and clip

MULTIPLIER_BITS = 31  # |multiplier| < 2**31: an int32 operand of SMMUL
MAX_SHIFT = 16  # fractional bits of offset; more would leave no room for the integer part below 2**30
MAX_LOGIT_PRE_SHIFT = 8


@dataclass(frozen=True)
class Requantize:
    """int32 accumulator → int8 code, per output channel (or one entry for all channels).

    `multiplier` and `offset` have one entry a channel; `pre_shift`, `shift`, `qmin` and `qmax` hold for the layer,
    so a kernel reads two words a channel and has every shift as an immediate.
    """

    multiplier: tuple[int, ...]
    offset: tuple[int, ...]
    pre_shift: int
    shift: int
    qmin: int
    qmax: int


@dataclass(frozen=True)
class BiasAdd:
    """int32 accumulator → int32 result, `(acc << pre_shift) + offset`: the logits of a classifier."""

    offset: tuple[int, ...]
    pre_shift: int


@dataclass(frozen=True)
class AddRescale:
    """Two int8 codes → int8 code: `clamp((a * multiplier_a + b * multiplier_b + offset) >> shift)`, all in int32."""

    multiplier_a: int
    multiplier_b: int
    offset: int
    shift: int
    qmin: int
    qmax: int


def requantize(acc: Ints, rq: Requantize, multiplier: Ints, offset: Ints) -> Ints:
    """Requantize an accumulator: the definition.

    Parameters
    ----------
    acc : int64 array or tensor, channels broadcastable against `multiplier`
        Accumulators; `|acc| << pre_shift` must be below 2**31 (`choose_requantize` proves it).
    rq : Requantize
        Shifts and clamp limits.
    multiplier, offset : int64 array or tensor
        `rq.multiplier` and `rq.offset` in the caller's array library, shaped to broadcast against `acc`.

    Returns
    -------
    int64 array or tensor
        Codes in [qmin, qmax].
    """
    scaled: Any = (((acc << rq.pre_shift) * multiplier) >> 32) + offset
    return (scaled >> rq.shift).clip(rq.qmin, rq.qmax)  # type: ignore[no-any-return]


def add_rescaled(a: Ints, b: Ints, p: AddRescale) -> Ints:
    """Add two int8 tensors of different scales: the definition (int64 array or tensor in, codes out)."""
    total: Any = a * p.multiplier_a + b * p.multiplier_b + p.offset
    return (total >> p.shift).clip(p.qmin, p.qmax)  # type: ignore[no-any-return]


def choose_requantize(
    scale: NDArray[np.float64], bias: NDArray[np.float64], acc_bound: int, zero_point: int, qmin: int, qmax: int
) -> Requantize:
    """Find the integers for `code = round(acc * scale + bias) + zero_point`.

    Takes the largest shift for which neither the shifted accumulator nor the offset leaves int32, whatever the input.

    Parameters
    ----------
    scale : float64 array of shape (C,)
        Output codes per accumulator unit; may be zero or negative.
    bias : float64 array of shape (C,)
        In output codes; holds the zero point of the input as well, `-zp_in * sum(w) * scale`.
    acc_bound : int
        No accumulator's magnitude can exceed it (from the weights: max|q| * max over channels of sum|w|).
    zero_point, qmin, qmax : int
        Of the output codes.

    Returns
    -------
    Requantize

    Raises
    ------
    UnsupportedOpError
        When no shift fits, or a value is not finite.
    """
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        raise UnsupportedOpError("a requantize scale or bias is NaN or infinite; look for NaN in the layer's weights")
    largest = max(float(np.abs(scale).max()), 2.0**-62)
    exponent = math.frexp(largest)[1]  # largest < 2**exponent
    for shift in range(MAX_SHIFT, 0, -1):
        pre_shift = max(0, shift + exponent + 32 - MULTIPLIER_BITS)
        offset = (bias + zero_point) * 2.0**shift + 2.0 ** (shift - 1)
        if acc_bound << pre_shift >= 2**31 or float(np.abs(offset).max()) >= 2**30 - 1:
            continue
        limit = 2**MULTIPLIER_BITS - 1
        multiplier = np.clip(_round(scale * 2.0 ** (32 + shift - pre_shift)), -limit, limit)
        return Requantize(_ints(multiplier), _ints(_round(offset)), pre_shift, shift, qmin, qmax)
    raise UnsupportedOpError(
        f"no 32-bit requantize exists for scale up to {largest:.3g} output codes per unit, bias up to "
        f"{float(np.abs(bias).max()):.3g} codes and accumulators up to {acc_bound}; "
        "the layer's output step is too small"
    )


def choose_bias_add(bias: NDArray[np.float64], acc_bound: int) -> BiasAdd:
    """Find the integers for `(acc + bias)` with as many fractional bits as int32 has room for.

    Parameters
    ----------
    bias : float64 array of shape (C,)
        In accumulator units.
    acc_bound : int
        No accumulator's magnitude can exceed it.
    """
    for pre_shift in range(MAX_LOGIT_PRE_SHIFT, -1, -1):
        offset = bias * 2.0**pre_shift
        if (acc_bound << pre_shift) + float(np.abs(offset).max()) < 2**31 - 1:
            return BiasAdd(_ints(_round(offset)), pre_shift)
    raise UnsupportedOpError(
        f"logits of up to {acc_bound} plus a bias of up to {float(np.abs(bias).max()):.3g} leave int32; "
        "use fewer inputs or fewer bits in the last layer"
    )


def choose_add(scale_a: float, scale_b: float, zero_points: tuple[int, int, int], qmin: int, qmax: int) -> AddRescale:
    """Find the integers for `code = round((a - za) * scale_a + (b - zb) * scale_b) + zo`.

    Parameters
    ----------
    scale_a, scale_b : float
        Output codes per input code.
    zero_points : (za, zb, zo)
        Of the inputs and the output.
    """
    za, zb, zo = zero_points
    for shift in range(20, 0, -1):
        ma, mb = round(scale_a * 2**shift), round(scale_b * 2**shift)
        offset = (zo << shift) + (1 << (shift - 1)) - za * ma - zb * mb
        if 128 * (ma + mb) + abs(offset) < 2**31:
            return AddRescale(ma, mb, offset, shift, qmin, qmax)
    raise UnsupportedOpError(
        f"an add whose inputs count {scale_a:.3g} and {scale_b:.3g} output codes a step leaves int32; "
        "its output step is too small"
    )


def _round(x: NDArray[np.float64]) -> NDArray[np.int64]:
    """Half up, as on the device."""
    return np.floor(x + 0.5).astype(np.int64)


def _ints(x: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(v) for v in x)
