"""The epilogue in vectors of four channels, equal to `fixed_point.py`: accumulators → codes or logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import AddRescale, BiasAdd, Requantize
from qkd.targets.kernels.armv8_a.neon import addhn, concatenate, sqdmulh, sqshrn, sqshrn_bytes, sqshrun_bytes, umin
from qkd.targets.kernels.epilogue import align
from qkd.tir.tir import Expr, Operand, Pointer, clamp, constant, let, mulhi

LANES = 4
HALF_BITS = 16
LARGEST_SHIFT = HALF_BITS + 8


def is_supported(epilogue: Requantize | BiasAdd | AddRescale) -> bool:
    """Whether the shift is an immediate of the narrowing instructions; `freeze` chooses no other."""
    return isinstance(epilogue, BiasAdd) or 1 <= epilogue.shift <= LARGEST_SHIFT


def block_table(epilogue: Requantize | BiasAdd, blocks: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """[block][2][channels of a block]: multipliers, then offsets; a BiasAdd's multipliers are not read."""
    offset = np.array(epilogue.offset, np.int32)
    multiplier = offset if isinstance(epilogue, BiasAdd) else np.array(epilogue.multiplier, np.int32)
    return np.stack([np.stack([multiplier[list(b)], offset[list(b)]]) for b in blocks])


@dataclass(frozen=True)
class Channels:
    """Multipliers and offsets of a block of channels, in vectors of four."""

    multipliers: tuple[Expr, ...]
    offsets: tuple[Expr, ...]


def load_channels(table: Pointer, block: Operand, channels: int) -> Channels:
    """Load a block's part of `block_table`."""
    start = block * (2 * channels)
    vectors = [let(table.load(start + LANES * i, LANES)) for i in range(2 * channels // LANES)]
    half = len(vectors) // 2
    return Channels(tuple(vectors[:half]), tuple(vectors[half:]))


def to_codes(accs: Sequence[Expr], rq: Requantize, channels: Channels) -> Expr:
    """Requantize 2 or 4 vectors of int32x4 (vector i belongs to channel vector i, modulo their number) to int8."""
    vectors = len(channels.multipliers)
    scaled = [_high_word(acc, rq, channels.multipliers[i % vectors]) for i, acc in enumerate(accs)]
    offsets = [channels.offsets[i % vectors] for i in range(len(accs))]
    return narrow(scaled, offsets, rq.shift, rq.qmin, rq.qmax)


def narrow(sums: Sequence[Expr], offsets: Sequence[Expr], shift: int, qmin: int, qmax: int) -> Expr:
    """`clamp(sum + offset >> shift)` of 2 or 4 vectors of int32x4: int8x8 or int8x16.

    A shift of 16, which `freeze` takes where it can, is free: ADDHN keeps the high halves of the sums.
    """
    rest = max(0, shift - HALF_BITS)
    if shift >= HALF_BITS:
        halves = [addhn(v, offset) for v, offset in zip(sums, offsets, strict=True)]
    else:
        halves = [sqshrn(v + offset, shift) for v, offset in zip(sums, offsets, strict=True)]
    pairs = [concatenate(halves[i : i + 2]) for i in range(0, len(halves), 2)]
    if qmin == 0:
        codes = concatenate([sqshrun_bytes(p, rest) for p in pairs])
        return umin(codes, constant(qmax, codes.dtype))
    codes = concatenate([sqshrn_bytes(p, rest) for p in pairs])
    return codes if (qmin, qmax) == (-128, 127) else clamp(codes, qmin, qmax)


def to_logits(acc: Expr, bias: BiasAdd, offset: Expr) -> Expr:
    """Four logits."""
    return align(acc, bias.pre_shift) + offset


def _high_word(acc: Expr, rq: Requantize, multiplier: Expr) -> Expr:
    """`mulhi(acc << pre_shift, multiplier)`: SQDMULH doubles, so one bit less of shift makes it exact.

    It saturates only where both operands are -2**31, which a multiplier never is.
    """
    if rq.pre_shift >= 1:
        return sqdmulh(acc << rq.pre_shift - 1, multiplier)
    return mulhi(align(acc, rq.pre_shift), multiplier)
