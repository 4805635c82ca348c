"""Matrix product for Armv8.0 with output channels in the lanes: LD4R broadcasts four taps, SMLAL adds in int16.

Per step of four taps and 64 accumulated vectors it takes 4 LD4R, 4 LDP and 64 SMLAL: nothing is reduced and nothing
widened. It is right where the whole sum of a channel is proved to fit int16, or where only its low 16 bits are wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qkd.targets.kernels.armv8_a.neon import ld4r, pin, smull, total
from qkd.tir.tir import Expr, Pointer, Register, high_half, let, low_half

LANES = 16  # channels of a vector of int8
DEPTH = 4  # taps of one LD4R
ACCUMULATORS = 16  # vectors of int16; with LD4R's four and eight of weights they fit 32 registers


@dataclass
class Sums:
    """Running sums in int16: for each row of codes, the channels of a block in vectors of eight."""

    block: int
    """Channels: 16 or 32."""
    rows: list[list[Register]] = field(default_factory=list)

    def add(self, addresses: Sequence[Expr], rows_an_address: int, weights: Pointer, at: Expr, steps: int) -> None:
        """Add `steps` steps of four taps.

        Each address is read from on, four bytes a row: the rows that share one are interleaved. Row r of `weights`,
        from element `at`, holds tap r of all channels.
        """
        places = list(addresses)
        for step in range(steps):
            matrix = [
                [
                    let(weights.load(at + ((step * DEPTH + k) * self.block + v), LANES))
                    for v in range(0, self.block, LANES)
                ]
                for k in range(DEPTH)
            ]
            for row in range(len(places) * rows_an_address):
                taps, places[row // rows_an_address] = ld4r(places[row // rows_an_address])
                self._add_row(row, taps, matrix)

    def _add_row(self, row: int, taps: Sequence[Expr], matrix: Sequence[Sequence[Expr]]) -> None:
        """The first products of a row need no zeros to add to."""
        products = [
            [smull(half(tap), half(channels[v])) for tap, channels in zip(taps, matrix, strict=True)]
            for v in range(self.block // LANES)
            for half in (low_half, high_half)
        ]
        if row == len(self.rows):
            self.rows.append([Register("int16x8", total(terms)) for terms in products])
        else:
            for acc, terms in zip(self.rows[row], products, strict=True):
                acc.value = total([acc.value, *terms])
        for acc in self.rows[row]:
            acc.value = pin(acc.value)


def block_channels(channels: int) -> int:
    """Channels of a block: two vectors where that comes out even."""
    return 2 * LANES if channels % (2 * LANES) == 0 else LANES


def rows_of_block(block: int) -> int:
    """Rows of codes whose sums with a block of channels fit the registers."""
    return ACCUMULATORS * LANES // 2 // block
