"""Exact integer Winograd F(2x2, 3x3): the weights' transform, and the proof that int16 holds what it must.

In one direction (Lavin and Gray, arXiv 1509.09308, with their halves moved behind the products):

    m0 = (d0 - d2) g0                m1 = (d1 + d2) (g0 + g1 + g2)        y0 = m0 + (m1 + m2) / 2
    m3 = (d1 - d3) g2                m2 = (d2 - d1) (g0 - g1 + g2)        y1 = (m1 - m2) / 2 - m3

All of it is integer: m1 + m2 = 2 (d1 g1 + d2 (g0 + g2)) and m1 - m2 = 2 (d1 (g0 + g2) + d2 g1) are even, and remain so
when channels are added. SHADD and SHSUB add, subtract and halve without losing a carry. In two directions

    M = sum over channels of (G g G^T) * (B^T d B),   X = the outputs of each column of M,   y = those of each row of X.

Additions and products may be computed modulo 2**16: what they give is right if the number that is meant fits int16.
A halved sum needs more: both its operands must be the numbers that are meant. Following y back, int16 must hold

    y;    X[0..1][1..2], which are halved for y;    M[1..2][0..3], which are halved for X,

and nothing else: the other elements of M and X are only added. Each of these is a sum over weights that meet different
codes, times constants, so its exact range over all inputs is the sum of the ranges of its terms. Taking `centre` off
every code makes the ranges of unsigned codes symmetric; of B^T d B it changes the element of row 1 and column 1 alone,
by 4 centre, and of y it takes centre times the sum of the weights, which is added again in int32.

Where the ranges are too wide, input channels are split into the fewest groups that fit, whose y are added in int32.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Value

POSITIONS = 16
CENTRE_POSITION = 5  # row 1, column 1
INT8_MAX, INT16_MAX = 2**7 - 1, 2**15 - 1
G = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]])
PLUS, MINUS = (1, 2, 1, 1), (1, 0, 1, 1)
"""How many codes each row of B^T adds and how many it subtracts."""
HALVED_ROWS, HALVED_COLUMNS = (1, 2), (1, 2)


@dataclass(frozen=True, eq=False)
class Proof:
    """What makes the kernel safe: the transformed weights, the groups of input channels and the centre of the codes."""

    transformed: NDArray[np.int64]
    """(16, O, C): G g G^T by position."""
    group_channels: int
    centre: int
    """What is taken off every code; 0 where the ranges fit without."""
    totals: NDArray[np.int64]
    """(O,): what that takes off every output."""

    @property
    def groups(self) -> int:
        """Into how many parts the input channels are split."""
        channels: int = self.transformed.shape[2]
        return channels // self.group_channels


def transform_weights(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """OHWI weights of 3 x 3 taps → (16, O, C), `G g G^T`."""
    transformed: NDArray[np.int64] = np.einsum("ia,oabc,jb->ijoc", G, weight, G)
    return transformed.reshape(POSITIONS, weight.shape[0], weight.shape[3])


def prove(weight: NDArray[np.int64], entry: Value, step: int, limit: int) -> Proof | None:
    """Prove that the transform is exact for these weights and any input.

    Parameters
    ----------
    weight : int64 array of shape (O, 3, 3, C)
    entry : Value
        The input activation, with its range of codes.
    step : int
        Groups have a multiple of `step` channels; C is one.
    limit : int
        Largest transformed code or weight that the kernel can hold; the least is `-limit - 1`.

    Returns
    -------
    Proof or None
        None where the transforms exceed `limit`, or not even a group of `step` channels has ranges that int16 holds.
    """
    transformed, channels = transform_weights(weight), weight.shape[3]
    if int(np.abs(transformed).max()) > limit:
        return None
    centres = [c for c in (0, centre_of(entry)) if _transform_fits(entry.qmin - c, entry.qmax - c, limit)]
    ranges = [(c, *ranges_of_channels(weight, entry.qmin - c, entry.qmax - c)) for c in centres]
    for size in (size for size in range(channels, 0, -step) if channels % size == 0):
        for centre, least, most in ranges:
            low, high = (r.reshape(*r.shape[:2], -1, size).sum(axis=3) for r in (least, most))
            if int(low.min()) >= -INT16_MAX - 1 and int(high.max()) <= INT16_MAX:
                return Proof(transformed, size, centre, centre * weight.sum(axis=(1, 2, 3)))
    return None


def beyond_proof(weight: NDArray[np.int64], entry: Value, step: int, limit: int) -> str:
    """By how much `prove` fails, in words; its parameters."""
    largest = int(np.abs(transform_weights(weight)).max())
    if largest > limit:
        return f"a transformed weight is {largest}; {limit} is the largest that the kernel holds"
    centre = centre_of(entry)
    if not _transform_fits(entry.qmin - centre, entry.qmax - centre, limit):
        return f"transformed codes reach {2 * (entry.qmax - entry.qmin)}; {limit} is the largest that the kernel holds"
    least, most = ranges_of_channels(weight, entry.qmin - centre, entry.qmax - centre)
    low, high = (r.reshape(*r.shape[:2], -1, step).sum(axis=3) for r in (least, most))
    return f"sums over {step} channels reach from {low.min():,} to {high.max():,}; int16 cannot hold them"


def centre_of(entry: Value) -> int:
    """The middle of an activation's codes."""
    return (entry.qmin + entry.qmax + 1) // 2


def ranges_of_channels(weight: NDArray[np.int64], qmin: int, qmax: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Least and largest share of each output and input channel in the numbers that int16 must hold, (numbers, O, C)."""
    pairs = [(products.min(axis=0), products.max(axis=0)) for products in _shares(weight, qmin, qmax)]
    least, most = (np.stack([side.sum(axis=0) for side in sides]) for sides in zip(*pairs, strict=True))
    return least, most


def _shares(weight: NDArray[np.int64], qmin: int, qmax: int) -> Iterator[NDArray[np.int64]]:
    """For each number, (2, terms, O, C): its terms where their codes make them smallest or largest, in either order."""
    taps = weight.transpose(1, 2, 0, 3)  # (3, 3, O, C)
    yield _extremes(taps.reshape(9, *taps.shape[2:]), 1, 0, qmin, qmax)
    for j in HALVED_COLUMNS:
        yield _extremes(np.einsum("b,aboc->aoc", G[j], taps), PLUS[j], MINUS[j], qmin, qmax)
    for i in HALVED_ROWS:
        for j in range(4):
            plus, minus = PLUS[i] * PLUS[j] + MINUS[i] * MINUS[j], PLUS[i] * MINUS[j] + MINUS[i] * PLUS[j]
            yield _extremes(np.einsum("a,b,aboc->oc", G[i], G[j], taps)[None], plus, minus, qmin, qmax)


def _extremes(terms: NDArray[np.int64], plus: int, minus: int, qmin: int, qmax: int) -> NDArray[np.int64]:
    """Terms times the least and times the largest of `plus` codes less `minus` others."""
    return np.stack([terms * (plus * qmin - minus * qmax), terms * (plus * qmax - minus * qmin)])


def _transform_fits(qmin: int, qmax: int, limit: int) -> bool:
    """Whether B^T d B lies in [-limit - 1, limit]: the sum of four codes, or two codes less two others."""
    return min(4 * qmin, 2 * (qmin - qmax)) >= -limit - 1 and max(4 * qmax, 2 * (qmax - qmin)) <= limit
