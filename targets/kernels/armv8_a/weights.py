"""Weights for AArch64: blocks of channels, chunks of 16 taps, packed to their bits; unpacked once a block."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, ceil_to
from qkd.tir.tir import Operand, Pointer, cast, high_half, let, loop, low_half


def channel_blocks(channels: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Blocks of `size` channels; the last one overlaps where `size` does not divide them."""
    starts = [min(start, channels - size) for start in range(0, channels, size)]
    return tuple(tuple(range(start, start + size)) for start in starts)


def pack_vectors(vectors: NDArray[np.int8], bits: int) -> NDArray[np.int8]:
    """Pack byte vectors along an axis: field f of packed vector g is vector `g * 8 // bits + f`.

    Parameters
    ----------
    vectors : int8 array of shape (B, G, V, 16)
        Blocks of G groups of V vectors; groups are packed with the groups that follow.
    bits : int
        2, 4 or 8.

    Returns
    -------
    int8 array of shape (B, ceil(G * bits / 8), V, 16)
        `unpack` gives the groups back, in order, with groups of zeros up to a whole byte.
    """
    fields = 8 // bits
    spare = ceil_to(vectors.shape[1], fields) - vectors.shape[1]
    padded = np.pad(vectors, ((0, 0), (0, spare), (0, 0), (0, 0))).view(np.uint8) & (2**bits - 1)
    grouped = padded.reshape(len(vectors), -1, fields, *vectors.shape[2:])
    shifts = (bits * np.arange(fields, dtype=np.uint8)).reshape(1, 1, fields, 1, 1)
    return np.asarray(np.bitwise_or.reduce(grouped << shifts, axis=2)).astype(np.uint8).view(np.int8)


def unpacked_bytes(groups: int, vectors: int, bits: int) -> int:
    """Bytes that `unpack` writes for one block; none for weights of 8 bits, which are used where they lie."""
    return 0 if bits == 8 else ceil_to(groups, 8 // bits) * vectors * VECTOR_BYTES


def unpack(packed: Pointer, block: Operand, shape: Sequence[int], bits: int, to: Pointer, start: int) -> None:
    """Write a block of `pack_vectors`, whose shape is `shape`, from element `start` on, as int8 or int16."""
    _, groups, vectors, _ = shape
    fields = 8 // bits
    with loop(groups) as group, loop(vectors) as vector:
        source = let((block * groups + group) * vectors + vector)
        word = let(packed.load(source * VECTOR_BYTES, VECTOR_BYTES))
        for field in range(fields):
            target = (group * fields + field) * vectors + vector
            codes = let(word << 8 - bits * (field + 1) >> 8 - bits)
            if to.dtype == "int16":
                for half, part in enumerate((low_half, high_half)):
                    to[target * VECTOR_BYTES + (start + 8 * half)] = cast(part(codes), "int16")
            else:
                to[target * VECTOR_BYTES + start] = codes
