"""Exact integer Winograd F(2x2, 3x3): the weights' transform, and the proofs that int8 and wrapping int16 suffice.

    4 y = A^T [ (4 G g G^T) * (B^T d B) ] A                    (Lavin and Gray, arXiv 1509.09308; G here times 2)

All of it is integer, and every step after the products is linear, so it may be computed modulo 2**16: sums may wrap as
often as they like as long as the result, 4 y, is known to lie in some range of 2**16 numbers. That range need not be
centred at 0: `prove` moves it there by `centre`, which is added to one product (it reaches all four outputs of a tile)
and taken off again in int32. Input channels are split into the fewest groups for which every output channel has

    4 * (largest y - least y) <= 65534,   where y is the sum of a group,

and the groups are added in int32.
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
    centre: NDArray[np.int64]
    """(groups, O): what to take off y so that 4 (y - centre) fits int16; all 0 where it does so already."""

    @property
    def groups(self) -> int:
        """Into how many parts the input channels are split."""
        return len(self.centre)

    @property
    def is_centred(self) -> bool:
        """Whether nothing has to be taken off."""
        return not self.centre.any()


def transform_weights(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """OHWI weights of 3 x 3 taps → (16, O, C), `4 G g G^T`."""
    transformed: NDArray[np.int64] = np.einsum("ia,oabc,jb->ijoc", G, weight, G)
    return transformed.reshape(POSITIONS, weight.shape[0], weight.shape[3])


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
        None where the transforms exceed `limit`, or not even a group of `step` channels has a range that int16 holds.
    """
    transformed = transform_weights(weight)
    largest_code = largest_transformed_input(entry.qmin, entry.qmax)
    if largest_code > limit or int(np.abs(transformed).max()) > limit:
        return None
    least, most = bounds_of_channels(weight, entry.qmin, entry.qmax)
    channels = weight.shape[3]
    for size in range(channels, 0, -step):
        if channels % size == 0:
            low, high = (b.reshape(len(b), -1, size).sum(axis=2).T for b in (least, most))
            if max(-4 * int(low.min()), 4 * int(high.max())) <= INT16_MAX:
                return Proof(transformed, size, np.zeros_like(low))
            centre = (low + high) // 2
            if max(4 * int((high - centre).max()), 4 * int((centre - low).max())) <= INT16_MAX:
                return Proof(transformed, size, centre)
    return None


def bounds_of_channels(weight: NDArray[np.int64], qmin: int, qmax: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Least and largest sum of products of each output and input channel, (O, C), for codes in [qmin, qmax]."""
    products = np.stack([weight * qmin, weight * qmax])
    return products.min(axis=0).sum(axis=(1, 2)), products.max(axis=0).sum(axis=(1, 2))
