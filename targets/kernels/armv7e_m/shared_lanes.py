"""Weights of two output channels in one int16, for activations of few bits: SMLAD then multiplies four times.

    a * (w1 * 2**s + w0) summed over taps  =  S1 * 2**s + S0        with w0 unsigned, `zero` above its value

Both sums come out of one accumulator as long as S0 fits the s bits below S1. It is therefore taken out, and added to a
sum of its own, after each run of taps for which the weights prove that: activations must be unsigned and small.
"""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Value
from qkd.targets.kernels.armv7e_m.weights import WeightFormat
from qkd.targets.kernels.thumb import tile_starts

FIELD_BITS = {4: 12, 2: 14}
"""s by bits of a weight: w1 takes the top bits of the int16."""
ROTATIONS = {4: (0, 8), 2: (0, 4, 8, 12)}
"""By how much a word of flash is rotated so that its next fields lie at both ends of both halves."""


@dataclass(frozen=True)
class SharedLanes:
    """The format of `bits` 4 or 2."""

    bits: int

    channels_per_lane: ClassVar[int] = 2
    scale_bits: ClassVar[int] = 0

    def __str__(self) -> str:
        return f"w{self.bits}x2"

    @property
    def field_bits(self) -> int:
        """Bits of the lower sum."""
        return FIELD_BITS[self.bits]

    @property
    def field_mask(self) -> int:
        """Keeps the lower sum."""
        return (1 << self.field_bits) - 1

    @property
    def pairs_per_word(self) -> int:
        """Pairs of lanes in 32 bits of flash."""
        return 8 // self.bits

    @property
    def zero(self) -> int:
        """What w0 is for a weight of value 0."""
        return 1 << (self.bits - 1)

    @property
    def mask(self) -> int:
        """Keeps both fields in each half of a word, as a signed int32."""
        lane = ((1 << self.bits) - 1) * (1 | 1 << self.field_bits)
        return int(np.uint32(lane << 16 | lane).view(np.int32))

    def unpack_line(self, weight: str, mask: str, word: str, field: int) -> str:
        """Assembly that takes one pair of lanes out of a word of weights."""
        rotation = ROTATIONS[self.bits][field]
        return f"and {weight}, {mask}, {word}" + (f", ror #{rotation}" if rotation else "")

    def lanes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Weights (…, 2, K) of two channels as the int16 that they share, (…, K)."""
        return (rows[..., 1, :] << self.field_bits) + rows[..., 0, :] + self.zero

    def pack(self, rows: NDArray[np.int64], tile_channels: int) -> NDArray[np.int32]:
        """Pack (O, K) for tiles of output channels: int32 (tiles, words) in the order quad, two channels, pair."""
        tiles = np.array([rows[start : start + tile_channels] for start in tile_starts(len(rows), tile_channels)])
        lanes = self.lanes(tiles.reshape(len(tiles), -1, 2, tiles.shape[2])) & 0xFFFF
        quads = lanes.reshape(len(tiles), lanes.shape[1], -1, 4).transpose(0, 2, 1, 3)
        pairs = quads[..., [0, 2, 1, 3]].reshape(len(tiles), -1, self.pairs_per_word, 2)
        words = pairs[..., 0] | pairs[..., 1] << 16
        left = np.array(ROTATIONS[self.bits])
        rotated = (words << left | words >> (32 - left)) & 0xFFFFFFFF
        return np.asarray(rotated.sum(axis=-1).astype(np.uint32).view(np.int32))


Weights: TypeAlias = WeightFormat | SharedLanes


def largest_run(rows: NDArray[np.int64], weights: SharedLanes, entry: Value, parts: int) -> int:
    """The largest that the lower sum of any channel can be in any of `parts` equal runs of taps, whatever the input."""
    runs = (rows + weights.zero).reshape(len(rows), parts, -1).sum(axis=2)
    return entry.qmax * int(runs.max())


def largest_accumulator(rows: NDArray[np.int64], weights: SharedLanes, entry: Value) -> int:
    """A bound of the accumulator's magnitude: any channel may be the upper one."""
    shared = (np.abs(rows) << weights.field_bits) + 2 * weights.zero
    return entry.qmax * int(shared.sum(axis=1).max())
