"""Activations for SMLAD: int8 codes expanded to pairs of int16 in the scratch, padding included.

Two layouts. `Rows` keeps as many input rows as the window is high in a ring: every code is expanded once, and the patch
under an output pixel is one run in each row. `Columns` expands the patch of a few pixels at a time: for windows of one
pixel, fully connected layers and channels that are no multiple of 4.
"""

from dataclasses import dataclass

from qkd.targets.kernels.armv7e_m.weights import sign_extend_bytes
from qkd.targets.kernels.thumb import code_pair, fill_words, rolled
from qkd.targets.kernels.window import Window
from qkd.tir.tir import Expr, Operand, Pointer, branch, call, constant, let, when, widen

PRELUDE = """
define i32 @armv7e_m_load_unaligned(ptr %address) {
  %word = load i32, ptr %address, align 1
  ret i32 %word
}
"""
"""LLVM IR for `load_word`; TIR knows loads of one element only."""


def load_word(codes: Pointer, index: Operand) -> Expr:
    """Four codes from any address: a caller's input buffer need not be aligned."""
    return let(call("int32", "armv7e_m_load_unaligned", codes.address(index)))


def store_quads(codes: Pointer, start: Expr, words: Pointer, at: Expr, quads: int) -> None:
    """Expand `quads` times 4 codes into pairs of int16, two words a quad."""
    unroll = next(u for u in (4, 3, 2, 1) if quads % u == 0)
    with rolled(quads // unroll) as block:
        for i in range(unroll):
            word = load_word(codes, start + block * (4 * unroll) + 4 * i)
            for odd in (False, True):
                words[at + block * (2 * unroll) + (2 * i + odd)] = sign_extend_bytes(word, odd)


def store_pixels(codes: Pointer, start: Expr, words: Pointer, at: Expr, pixels: int, channels: int) -> None:
    """Expand pixels whose channels are no multiple of 4; no code beyond a pixel is read."""
    quads = -(-channels // 4)
    with rolled(pixels) as pixel:
        first, place = let(start + pixel * channels), let(at + pixel * (2 * quads))
        for low in (4 * quad + odd for quad in range(quads) for odd in range(2)):
            pair = widen(codes[first + low]) & 0xFFFF if low < channels else constant(0)
            if low + 2 < channels:
                pair = pair | widen(codes[first + low + 2]) << 16
            words[place + (low // 4 * 2 + low % 2)] = pair


@dataclass(frozen=True)
class Rows:
    """A ring of expanded, padded input rows; channels are filled up to a multiple of 4 with whatever."""

    window: Window
    zero_point: int

    @property
    def pixel_words(self) -> int:
        """Words of one input pixel."""
        return 2 * self.pixel_quads

    @property
    def pixel_quads(self) -> int:
        """Quads of channels of one pixel."""
        return -(-self.window.channels // 4)

    @property
    def row_pixels(self) -> int:
        """Pixels of a row that some window covers, padding included."""
        return (self.window.out_width - 1) * self.window.stride[1] + self.window.kernel[1]

    @property
    def row_words(self) -> int:
        """Words of one row."""
        return self.row_pixels * self.pixel_words

    @property
    def scratch_words(self) -> int:
        """Words of the ring, and behind it where each row of the window starts."""
        return self.window.kernel[0] * (self.row_words + 1)

    def start_of(self, words: Pointer, window_row: Operand) -> Expr:
        """Where in the ring a row of the current window starts."""
        return words[self.window.kernel[0] * self.row_words + window_row]

    def begin(self, words: Pointer) -> None:
        """Fill the ring with padding; `advance` never writes the left and right margins."""
        fill_words(words, constant(0), self.window.kernel[0] * self.row_words, code_pair(self.zero_point))

    def advance(self, codes: Pointer, words: Pointer, out_row: Expr) -> None:
        """Bring in the rows that the windows of `out_row` need and the ring does not hold."""
        height, step = self.window.kernel[0], self.window.stride[0]
        held = max(0, height - step)
        with rolled(height) as i:
            padded_row = let(out_row * step + i)
            slot = let(padded_row % height * self.row_words)
            words[height * self.row_words + i] = slot
            with when((i >= held) | out_row.equals(0)):
                self._expand(codes, words, padded_row - self.window.padding[0], slot)

    def _expand(self, codes: Pointer, words: Pointer, row: Expr, slot: Expr) -> None:
        w, left = self.window, self.window.padding[2]
        pixels = min(w.width, self.row_pixels - left)
        first = let(slot + left * self.pixel_words)

        def copy() -> None:
            source = let(row * (w.width * w.channels))
            if w.channels % 4 == 0:
                store_quads(codes, source, words, first, pixels * self.pixel_quads)
            else:
                store_pixels(codes, source, words, first, pixels, w.channels)

        def fill() -> None:
            fill_words(words, first, pixels * self.pixel_words, code_pair(self.zero_point))

        branch((row >= 0) & (row < w.height), copy, fill) if any(w.padding[:2]) else copy()


@dataclass(frozen=True)
class Columns:
    """The expanded patches of `pixels` output pixels; each row of the window is filled up to a multiple of 4 codes."""

    window: Window
    zero_point: int
    pixels: int
    quads: int
    """Of a column: those of the patch, or more where the kernel takes several at a time."""

    @property
    def run_quads(self) -> int:
        """Quads of one row of the window."""
        return -(-self.window.kernel[1] * self.window.channels // 4)

    @property
    def column_words(self) -> int:
        """Words of one column."""
        return 2 * self.quads

    @property
    def is_direct(self) -> bool:
        """Whether patches can be read from the input: else a padded copy is made, which may be read past its end."""
        return not any(self.window.padding) and self.window.kernel[1] * self.window.channels % 4 == 0

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows of the padded copy and bytes of a row."""
        w = self.window
        height = (w.out_height - 1) * w.stride[0] + w.kernel[0]
        return height, ((w.out_width - 1) * w.stride[1] + w.kernel[1]) * w.channels

    @property
    def scratch_words(self) -> int:
        """Words of the columns, and of the padded copy behind them."""
        height, row_bytes = self.image_shape
        return self.pixels * self.column_words + (0 if self.is_direct else -(-(height * row_bytes + 3) // 4))

    @property
    def image_byte(self) -> int:
        """Where in the scratch the padded copy starts."""
        return 0 if self.is_direct else 4 * self.pixels * self.column_words

    def copy_padded(self, codes: Pointer, image: Pointer) -> None:
        """Write the padded copy into the scratch, given as bytes."""
        w, (height, row_bytes) = self.window, self.image_shape
        top, _, left, _ = w.padding
        if any(w.padding):
            with rolled(height * row_bytes) as i:
                image[self.image_byte + i] = self.zero_point
        width = min(w.width * w.channels, row_bytes - left * w.channels)
        with rolled(min(w.height, height - top)) as row, rolled(width) as i:
            at = row * row_bytes + (self.image_byte + top * row_bytes + left * w.channels)
            image[at + i] = codes[row * (w.width * w.channels) + i]

    def gather(self, image: Pointer, words: Pointer, pixel: Expr, column: int) -> None:
        """Expand the patch under an output pixel into a column; `image` is the input or the scratch as bytes."""
        w = self.window
        row_bytes = w.width * w.channels if self.is_direct else self.image_shape[1]
        row, x = let(pixel // w.out_width), let(pixel % w.out_width)
        start = let(row * (w.stride[0] * row_bytes) + x * (w.stride[1] * w.channels) + self.image_byte)
        with rolled(w.kernel[0]) as i:
            at = let(i * (2 * self.run_quads) + column * self.column_words)
            store_quads(image, let(start + i * row_bytes), words, at, self.run_quads)
