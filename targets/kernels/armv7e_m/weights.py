"""Weights for the SMLAD instruction: how they lie in flash and how a pair of them comes out of a word.

SMLAD multiplies two pairs of int16 and adds both products. Pairs follow the order in which SXTB16 takes bytes out of a
word: channels (0, 2) and (1, 3) of every quad, so that activations need no reordering.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qkd.targets.kernels.thumb import tile_starts
from qkd.tir.tir import Expr, constant, intrinsic, let


@dataclass(frozen=True)
class WeightFormat:
    """How weights of `bits` 8, 4 or 2 are packed, and what comes out.

    With `in_top_bits` a weight is unpacked into the top bits of its int16, so one AND yields two signed weights, times
    `2**scale_bits`; the kernel's proof must allow for that factor. Otherwise they are unsigned, `zero` above their
    value, and the kernel subtracts `zero` times the sum of the activations.
    """

    bits: int
    in_top_bits: bool = True

    channels_per_lane: ClassVar[int] = 1
    """Output channels whose weights share an int16."""

    def __str__(self) -> str:
        return f"w{self.bits}{'u' if self.zero else ''}"

    @property
    def pairs_per_word(self) -> int:
        """Pairs of weights in 32 bits."""
        return 16 // self.bits

    @property
    def scale_bits(self) -> int:
        """Accumulators are `2**scale_bits` times the sum of products."""
        return 16 - self.bits if self.bits < 8 and self.in_top_bits else 0

    @property
    def zero(self) -> int:
        """What an unsigned weight of value 0 is."""
        return 0 if self.bits == 8 or self.in_top_bits else 1 << (self.bits - 1)

    @property
    def mask(self) -> int:
        """Keeps one weight in each half of a word, as a signed int32."""
        field = (1 << self.bits) - 1
        lane = field << (16 - self.bits) if self.in_top_bits else field
        return int(np.uint32(lane << 16 | lane).view(np.int32))

    def unpack_line(self, weight: str, mask: str, word: str, field: int) -> str:
        """Assembly that takes one pair out of a word of weights."""
        if self.bits == 8:
            return f"sxtb16 {weight}, {word}" + (", ror #8" if field else "")
        shift = self.bits * field
        way = "lsl" if self.in_top_bits else "lsr"
        return f"and {weight}, {mask}, {word}" + (f", {way} #{shift}" if shift else "")

    def unpack(self, word: Expr, pair: int, mask: Expr) -> Expr:
        """One pair of a word as two int16; `mask` holds `self.mask` in a register, so that the shift is free."""
        if self.bits == 8:
            return sign_extend_bytes(word, odd=pair == 1)
        shift = self.bits * pair
        if self.in_top_bits:
            return let(word << shift & mask)
        return let(word >> shift & mask)

    def pack(self, rows: NDArray[np.int64], tile_channels: int) -> NDArray[np.int32]:
        """Pack for tiles of output channels.

        Parameters
        ----------
        rows : int64 array of shape (O, K)
            K a multiple of 4; what lies between O and a multiple of `tile_channels` repeats channels.

        Returns
        -------
        int32 array of shape (tiles, words)
            In the order quad, channel of the tile, pair.
        """
        tiles = np.array([rows[start : start + tile_channels] for start in tile_starts(len(rows), tile_channels)])
        quads = tiles.reshape(len(tiles), tile_channels, -1, 4).transpose(0, 2, 1, 3)
        if self.bits == 8:
            return np.ascontiguousarray(quads.astype(np.int8)).view(np.int32).reshape(len(tiles), -1)
        pairs = quads[..., [0, 2, 1, 3]].reshape(len(tiles), -1, self.pairs_per_word, 2)
        fields = (pairs + self.zero) & ((1 << self.bits) - 1)
        places = self.bits * np.arange(self.pairs_per_word)
        places = 16 - self.bits - places if self.in_top_bits else places
        words = ((fields[..., 0] | fields[..., 1] << 16) << places).sum(axis=-1)
        return np.asarray(words.astype(np.uint32).view(np.int32))


def sign_extend_bytes(word: Expr, odd: bool) -> Expr:
    """Bytes 0 and 2 of a word, or 1 and 3, as two int16 (SXTB16 with its free rotation)."""
    if odd:
        word = intrinsic("int32", "llvm.fshr", word, word, constant(8))
    return let(intrinsic("int32", "llvm.arm.sxtb16", word))
