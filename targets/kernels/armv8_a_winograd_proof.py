"""Exact integer Winograd F(2x2, 3x3): the weights' transform, and the proofs that int8 and wrapping int16 suffice.

    4 y = A^T [ (4 G g G^T) * (B^T d B) ] A                    (Lavin and Gray, arXiv 1509.09308; G here times 2)

All of it is integer, and every step after the products is linear, so it may be computed modulo 2**16: sums may wrap as
often as they like as long as the result, 4 y, is known to fit int16. Input channels are therefore split into the
fewest groups with 4 * amax * sum of |w| <= 32767 for every output channel, and groups are added in int32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph import Value
from qkd.targets.kernels.armv8_a_chains import INT16_MAX

POSITIONS = 16
SCALE_BITS = 2
"""The transform leaves 4 y."""
INT8_MAX = 127
G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
"""Twice the G of the paper, which has halves."""


@dataclass(frozen=True, eq=False)
class Proof:
    """What makes the kernel safe: the transformed weights and the groups of input channels."""

    transformed: NDArray[np.int64]
    """(16, O, C): 4 G g G^T by position."""
    group_channels: int
    groups: int


def transform_weights(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """OHWI weights of 3 x 3 taps → (16, O, C), `4 G g G^T`."""
    return np.einsum("ia,oabc,jb->ijoc", G, weight, G).reshape(POSITIONS, weight.shape[0], weight.shape[3])


def largest_transformed_input(qmin: int, qmax: int) -> int:
    """Bound of |B^T d B| for codes in [qmin, qmax]: sums of two codes, or differences, in both directions."""
    return max(4 * max(abs(qmin), abs(qmax)), 2 * (qmax - qmin))


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
        Largest magnitude of a transformed code or weight that the kernel can hold.

    Returns
    -------
    Proof or None
        None where the transforms exceed `limit`, or not even a group of `step` channels keeps 4 y within int16.
    """
    transformed = transform_weights(weight)
    largest_code = largest_transformed_input(entry.qmin, entry.qmax)
    if largest_code > limit or int(np.abs(transformed).max()) > limit:
        return None
    amax, channels = max(abs(entry.qmin), abs(entry.qmax)), weight.shape[3]
    sums = np.abs(weight).sum(axis=(1, 2))  # (O, C)
    for size in range(channels, 0, -step):
        if channels % size == 0:
            grouped = sums.reshape(len(sums), channels // size, size).sum(axis=2)
            if 4 * amax * int(grouped.max()) <= INT16_MAX:
                return Proof(transformed, size, channels // size)
    return None
