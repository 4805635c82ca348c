"""Proof that sums of products fit int16 lanes, and how far: the order in which taps are added, and what it may reach.

A lane of int16 takes the products of one patch and one channel. How many 16-byte chunks may be added before the lanes
must be widened to int32 follows from the largest sum of |weight| that a lane of any channel meets.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES

INT16_MAX = 2**15 - 1
LANES = 8  # of int16; lanes i and i + 8 of a chunk meet in lane i
SHORT_CHAIN = 2
"""Longer chains keep their int16 lanes in registers over a loop, shorter ones are widened at once."""
UNROLLED_CHUNKS = 8
MOST_CHAINS = 16
"""More long chains in a patch than this would be too much code."""


@dataclass(frozen=True)
class Chain:
    """Chunks that are added in int16: `chunks` from `chunk` on in each of `segments` from `segment` on."""

    segment: int
    segments: int
    chunk: int
    chunks: int


def split_into_chains(segments: int, chunks: int, longest: int) -> tuple[Chain, ...]:
    """Split a patch of `segments` runs of `chunks` each into chains of at most `longest` chunks."""
    if longest >= chunks:
        step = longest // chunks
        return tuple(Chain(s, min(step, segments - s), 0, chunks) for s in range(0, segments, step))
    size = balanced_part(chunks, longest) if longest > SHORT_CHAIN else longest
    starts = range(0, chunks, size)
    return tuple(Chain(s, 1, c, min(size, chunks - c)) for s in range(segments) for c in starts)


def balanced_part(count: int, largest: int) -> int:
    """Size of the parts when `count` is split into the fewest parts of at most `largest`."""
    return -(-count // -(-count // largest))


def chains_fit_int16(rows: NDArray[np.int8], amax: int, segments: int, chains: tuple[Chain, ...]) -> bool:
    """Prove that no lane of any chain leaves int16, whatever the input.

    Parameters
    ----------
    rows : int8 array of shape (O, taps)
        Weights in the order of the patch's bytes.
    amax : int
        Largest magnitude of an input code.
    segments : int
        Runs of a patch.
    chains : tuple of Chain
    """
    lanes = np.abs(rows.astype(np.int64)).reshape(len(rows), segments, -1, VECTOR_BYTES // LANES, LANES).sum(axis=3)
    for c in chains:
        part = lanes[:, c.segment : c.segment + c.segments, c.chunk : c.chunk + c.chunks]
        if amax * int(part.sum(axis=(1, 2)).max()) > INT16_MAX:
            return False
    return True


def longest_chains(rows: NDArray[np.int8], amax: int, segments: int) -> tuple[Chain, ...] | None:
    """The fewest chains that are proved safe; None when not even one chunk is."""
    chunks = rows.shape[1] // VECTOR_BYTES // segments
    for longest in range(chunks * segments, 0, -1):
        chains = split_into_chains(segments, chunks, longest)
        wanted = longest <= SHORT_CHAIN or len(chains) <= MOST_CHAINS
        if wanted and chains_fit_int16(rows, amax, segments, chains):
            return chains
    return None


def sum_fits_int16(rows: NDArray[np.int64], qmin: int, qmax: int) -> bool:
    """Prove that the sum of a channel's products fits int16 whatever the input; sums on the way to it may wrap.

    `rows` holds the weights of one channel in each row, codes lie in [qmin, qmax].
    """
    least, most = sum_range(rows, qmin, qmax)
    return least >= -INT16_MAX - 1 and most <= INT16_MAX


def sum_range(rows: NDArray[np.int64], qmin: int, qmax: int) -> tuple[int, int]:
    """The least and the largest sum of any channel: each weight takes the code that suits it."""
    products = np.stack([rows * qmin, rows * qmax]).reshape(2, len(rows), -1)
    least, most = products.min(axis=0).sum(axis=1), products.max(axis=0).sum(axis=1)
    return int(least.min()), int(most.max())


def beyond_int16(rows: NDArray[np.int64], qmin: int, qmax: int) -> str:
    """By how much `sum_fits_int16` fails, in words."""
    least, most = sum_range(rows, qmin, qmax)
    return f"sums of a channel reach from {least:,} to {most:,}; int16 holds {-INT16_MAX - 1:,} to {INT16_MAX:,}"


def largest_divisor(count: int, largest: int) -> int:
    """The largest divisor of `count` that is at most `largest`."""
    return next(d for d in range(min(count, largest), 0, -1) if count % d == 0)
