"""What the ternary lookup kernel keeps where: tables of an input row, sums of output rows, the row itself, codes."""

from dataclasses import dataclass

from qkd.targets.kernels.window import Window

LANES = 4
GROUP = 3
ENTRIES = 27
"""Of a table: 3**GROUP."""
ENTRIES_PER_FRACTION = 5
"""Codes that are packed together: 27**5 < 2**24."""
TABLE_WORDS = 2 * ENTRIES
TILE_CHANNELS = 4
"""Output channels whose sums are in registers; their codes are the four bytes of a word."""


@dataclass(frozen=True)
class Lookup:
    """Geometry of the tables, the codes and the sums."""

    window: Window
    out_channels: int
    chunks: int
    """Parts into which a row of the window is cut so that a part's sum fits int16."""
    wide: bool
    """Sums of whole windows need int32."""

    @property
    def variant(self) -> str:
        """Name for the report."""
        return f"lookup_{'int32' if self.wide else 'int16'}_{self.chunks}"

    @property
    def lane_columns(self) -> int:
        """Output columns of one lane."""
        return -(-self.window.out_width // LANES)

    @property
    def row_pixels(self) -> int:
        """Input pixels of a row that some lane reads, padding included."""
        return (LANES * self.lane_columns - 1) * self.window.stride[1] + self.window.kernel[1]

    @property
    def positions(self) -> int:
        """Input columns of one lane: each has its own tables."""
        return (self.lane_columns - 1) * self.window.stride[1] + self.window.kernel[1]

    @property
    def groups(self) -> int:
        """Groups of input channels."""
        return -(-self.window.channels // GROUP)

    @property
    def run(self) -> int:
        """Tables, and codes, of one row of the window."""
        return self.window.kernel[1] * self.groups

    @property
    def live_rows(self) -> int:
        """Output rows in progress."""
        return -(-self.window.kernel[0] // self.window.stride[0])

    @property
    def tile_words(self) -> int:
        """Words of sums of one position and tile of output channels."""
        return TILE_CHANNELS * LANES // (1 if self.wide else 2)

    @property
    def sums_row_words(self) -> int:
        """Words of sums of one output row."""
        return self.out_channels // TILE_CHANNELS * self.lane_columns * self.tile_words

    @property
    def sums_word(self) -> int:
        """Where the sums start in the scratch, behind the tables."""
        return self.positions * self.groups * TABLE_WORDS

    @property
    def row_byte(self) -> int:
        """Where the padded input row starts in the scratch, behind the sums."""
        return 4 * (self.sums_word + self.live_rows * self.sums_row_words)

    @property
    def fractions(self) -> int:
        """Packed groups of codes in flash."""
        return -(-self.out_channels * self.window.kernel[0] * self.run // ENTRIES_PER_FRACTION)

    @property
    def codes_byte(self) -> int:
        """Where the unpacked codes start, behind the row; the last group may read past the row's last channel."""
        return self.row_byte + -(-(self.row_pixels * self.window.channels + GROUP - 1) // 4) * 4

    @property
    def scratch_bytes(self) -> int:
        """All of it."""
        return self.codes_byte + self.fractions * ENTRIES_PER_FRACTION
