"""What a convolution on Armv6-M keeps where: one expanded input row, sums of the output rows in progress, weights.

Input rows are taken one after the other. A row is expanded once into words whose lanes are output columns a fraction of
the width apart, so what is expanded for a window column also serves the column beside it, one output position later;
then every window row that lies on it adds its products to the sums of its output row.
"""

from dataclasses import dataclass
from typing import TypeAlias

from qkd.targets.kernels.window import Window

CODE_LIMIT_BYTES = 1 << 16
"""A code of the lookup is two bytes: where an entry lies behind the first table of its part."""


@dataclass(frozen=True)
class Multiply:
    """Weights of 8, 4 or 2 bits, unsigned, times words of codes."""

    bits: int

    @property
    def group(self) -> int:
        """Channels of a unit: the weights of a byte."""
        return 8 // self.bits

    @property
    def zero(self) -> int:
        """What the weight 0 is."""
        return 1 << (self.bits - 1)

    @property
    def unit_entries(self) -> int:
        """Entries of a unit, each as many words as there are words of lanes."""
        return self.group


@dataclass(frozen=True)
class Lookup:
    """Sums of `group` codes times weights of `levels` values from `lowest` on, all of them in a table."""

    levels: int
    lowest: int
    group: int
    codes_per_fraction: int
    """Codes that flash holds in 24 bits: the most whose number of combinations is below 2**24."""

    @property
    def unit_entries(self) -> int:
        """Entries of a table."""
        return int(self.levels**self.group)


Scheme: TypeAlias = Multiply | Lookup

LOOKUPS = (Lookup(3, -1, 3, 5), Lookup(4, -2, 2, 6))
"""Ternary and 2-bit. One weight of 4 bits a table saves a twentieth and takes ten times the scratch of products."""


@dataclass(frozen=True)
class Rows:
    """Geometry of the expanded row, the sums and the weights."""

    window: Window
    out_channels: int
    scheme: Scheme
    words: int
    """Words of lanes."""
    paired: bool
    """Two lanes a word."""
    chunks: int
    """Parts of a window row, each short enough for the sums of paired lanes to fit int16."""
    wide: bool
    """Paired sums of whole windows need int32."""

    @property
    def variant(self) -> str:
        """Name for the report."""
        s = self.scheme
        name = f"multiply_w{s.bits}" if isinstance(s, Multiply) else f"lookup_{s.levels}x{s.group}"
        size = "int32" if self.wide or not self.paired else "int16"
        return f"{name}_{self.words}{'x2' if self.paired else ''}_{size}"

    @property
    def lanes(self) -> int:
        """Output columns that a run of weights serves."""
        return self.words * (2 if self.paired else 1)

    @property
    def stride(self) -> tuple[int, int]:
        """Rows and columns of the expanded input between windows; a window of one pixel leaves out what it skips."""
        (height, width), (down, right) = self.window.kernel, self.window.stride
        return 1 if height == 1 else down, 1 if width == 1 else right

    @property
    def input_step(self) -> tuple[int, int]:
        """Input rows and columns between those that are expanded."""
        return self.window.stride[0] // self.stride[0], self.window.stride[1] // self.stride[1]

    @property
    def lane_columns(self) -> int:
        """Output columns of one lane."""
        return -(-self.window.out_width // self.lanes)

    @property
    def positions(self) -> int:
        """Expanded input columns of one lane."""
        return (self.lane_columns - 1) * self.stride[1] + self.window.kernel[1]

    @property
    def lane_bytes(self) -> int:
        """From the code of one lane to that of the next in an input row."""
        return self.lane_columns * self.window.stride[1] * self.window.channels

    @property
    def row_pixels(self) -> int:
        """Input pixels of a row that some lane reads, padding included."""
        return (self.lanes * self.lane_columns - 1) * self.window.stride[1] + self.window.kernel[1]

    @property
    def row_count(self) -> int:
        """Input rows that are expanded, padding included."""
        return (self.window.out_height - 1) * self.stride[0] + self.window.kernel[0]

    @property
    def is_direct(self) -> bool:
        """Whether a row can be read where it lies: else a padded copy is made."""
        return not any(self.window.padding) and self.row_pixels <= self.window.width

    @property
    def units(self) -> int:
        """Units of one position."""
        return -(-self.window.channels // self.scheme.group)

    @property
    def run(self) -> int:
        """Units of one row of the window."""
        return self.window.kernel[1] * self.units

    @property
    def part(self) -> int:
        """Units of one part of it."""
        return self.run // self.chunks

    @property
    def unit_words(self) -> int:
        """Words of an expanded unit."""
        return self.scheme.unit_entries * self.words

    @property
    def live_rows(self) -> int:
        """Output rows in progress."""
        return -(-self.window.kernel[0] // self.stride[0])

    @property
    def sum_words(self) -> int:
        """Words of the sums of all lanes of one column and channel."""
        return self.words * (2 if self.wide else 1)

    @property
    def sums_row_words(self) -> int:
        """Words of sums of one output row."""
        return self.lane_columns * self.out_channels * self.sum_words

    @property
    def codes(self) -> int:
        """Codes of all tables that are looked up."""
        return self.out_channels * self.window.kernel[0] * self.run

    @property
    def fractions(self) -> int:
        """Packed groups of them in flash."""
        return -(-self.codes // self.scheme.codes_per_fraction) if isinstance(self.scheme, Lookup) else 0

    @property
    def packed_bytes(self) -> int:
        """Weights in flash."""
        runs = self.out_channels * self.window.kernel[0]
        return runs * self.run if isinstance(self.scheme, Multiply) else 3 * self.fractions

    @property
    def fits(self) -> bool:
        """Whether every entry of a part can be named by a code."""
        return isinstance(self.scheme, Multiply) or 4 * self.part * self.unit_words <= CODE_LIMIT_BYTES

    # Where things start in the scratch, in words: expanded row, sums, starts of runs, a few vectors, row, codes.

    @property
    def sums_word(self) -> int:
        """Sums."""
        return self.positions * self.units * self.unit_words

    @property
    def starts_word(self) -> int:
        """Starts of runs: [part][column] for products, one for all lookups."""
        return self.sums_word + self.live_rows * self.sums_row_words

    @property
    def vectors_word(self) -> int:
        """A zero vector and a sum for products, the steps of a table for lookups."""
        starts = self.chunks * self.lane_columns if isinstance(self.scheme, Multiply) else 1
        return self.starts_word + starts * self.words

    @property
    def row_word(self) -> int:
        """The padded input row."""
        vectors = 2 if isinstance(self.scheme, Multiply) else self.scheme.group + 1
        return self.vectors_word + vectors * self.words

    @property
    def codes_word(self) -> int:
        """Unpacked codes of lookups, or a run of weights that are all 0."""
        row_bytes = 0 if self.is_direct else self.row_pixels * self.window.channels
        return self.row_word + -(-row_bytes // 4)

    @property
    def scratch_bytes(self) -> int:
        """All of it."""
        if isinstance(self.scheme, Multiply):
            return 4 * self.codes_word + self.part
        return 4 * self.codes_word + 2 * self.fractions * self.scheme.codes_per_fraction
