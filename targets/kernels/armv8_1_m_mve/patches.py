"""Patches for MVE: the codes under each output pixel as one run, padding included.

Windows of one pixel lie so in the input already. For others each output row has a strip: the input rows under the
window, padded, column by column, [column][row of the window][channel]. The patch of an output pixel is then a run that
begins `stride` columns after its neighbour's, so nothing is copied twice for one output row.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.targets.kernels.armv8_1_m_mve.products import vectors_of
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, fill_vector, trip_count
from qkd.targets.kernels.window import Window
from qkd.tir.tir import Expr, Operand, Pointer, branch, broadcast, constant, let, loop

UNROLLED_BYTES = 128
"""Runs of up to so many codes are copied without a loop."""


@dataclass(frozen=True)
class Strip(ABC):
    """The input rows under an output row, padded, in some order of columns, rows and channels."""

    window: Window
    zero_point: int

    @property
    @abstractmethod
    def scratch_bytes(self) -> int:
        """Size of the strip with what is read behind it."""

    @property
    def columns(self) -> int:
        """Columns of the strip that some window covers."""
        return (self.window.out_width - 1) * self.window.stride[1] + self.window.kernel[1]

    @property
    def inside(self) -> int:
        """Those of them that hold input; the others are padding in every row. A window may see padding only."""
        return max(0, min(self.window.width, self.columns - self.window.padding[2]))

    def begin(self, strip: Pointer) -> None:
        """Fill the strip with padding; `advance` never writes the columns that are always padding."""
        if self.columns > self.inside:
            fill(strip, constant(0), self.scratch_bytes, self.zero_point)


@dataclass(frozen=True)
class Patches(Strip):
    """Where patches lie: in the input, or in a strip in the scratch."""

    by_row: bool = False
    """Something happens after each output row."""

    @property
    def direct(self) -> bool:
        """Patches lie in the input, and whole vectors read nothing behind its end."""
        return self.window.is_pixel and self.window.channels % LANES == 0

    @property
    def flat(self) -> bool:
        """Output pixels follow one another as input pixels do: rows need not be told apart."""
        return self.direct and self.window.stride == (1, 1) and not self.by_row

    @property
    def rows(self) -> int:
        """Output rows that are visited one by one."""
        return 1 if self.flat else self.window.out_height

    @property
    def pixels(self) -> int:
        """Output pixels of such a row."""
        return self.window.out_height * self.window.out_width if self.flat else self.window.out_width

    @property
    def taps(self) -> int:
        """Codes of a patch."""
        return self.window.taps * self.window.channels

    @property
    def column(self) -> int:
        """Codes of a column of the strip."""
        return self.window.kernel[0] * self.window.channels

    @property
    def scratch_bytes(self) -> int:
        """The strip in whole vectors, and what the last patch's last vector reads behind it."""
        if self.direct:
            return 0
        last = (self.window.out_width - 1) * self.window.stride[1] * self.column
        return last + vectors_of(self.taps) * LANES + -last % LANES

    def order(self, weights_OHWI: NDArray[np.int64]) -> NDArray[np.int64]:
        """Weights in the order of the codes of a patch: (O, H, W, I) → (O, W * H * I)."""
        return weights_OHWI.transpose(0, 2, 1, 3).reshape(len(weights_OHWI), -1)

    def advance(self, x: Pointer, strip: Pointer, out_row: Expr) -> None:
        """Copy the input rows under the windows of an output row into the strip."""
        window = self.window
        if not self.inside:
            return
        with loop(window.kernel[0]) as i:
            row = let(out_row * window.stride[0] + i - window.padding[0])
            to = let(i * window.channels + window.padding[2] * self.column)

            def copy_row(row: Expr = row, to: Expr = to) -> None:
                start = let(row * (window.width * window.channels))
                self._each_pixel(lambda p: copy(x, start + p * window.channels, strip, to + p * self.column,
                                                window.channels))  # fmt: skip

            def fill_row(to: Expr = to) -> None:
                self._each_pixel(lambda p: fill(strip, to + p * self.column, window.channels, self.zero_point))

            if window.padding[0] or window.padding[1]:
                branch((row >= 0) & (row < window.height), copy_row, fill_row)
            else:
                copy_row()

    def start(self, out_row: Expr, pixel: Expr) -> Expr:
        """Where the patch of a pixel begins, in the input or in the strip."""
        if not self.direct:
            return pixel * (self.window.stride[1] * self.column)
        across = self.window.stride[1] * self.window.channels
        return out_row * (self.window.stride[0] * self.window.width * self.window.channels) + pixel * across

    def _each_pixel(self, body: Callable[[Expr], None]) -> None:
        with loop(trip_count(self.inside)) as pixel:
            body(pixel)


def copy(x: Pointer, start: Operand, to: Pointer, at: Operand, count: int) -> None:
    """Copy `count` codes in the widest pieces that fit; the addresses need no alignment."""
    whole = count // LANES if count > UNROLLED_BYTES else 0
    if whole:
        with loop(trip_count(whole)) as i:
            to[at + i * LANES] = x.load(start + i * LANES, LANES)
    for first, lanes in _pieces(whole * LANES, count):
        to[at + first] = x.load(start + first, lanes) if lanes > 1 else x[start + first]


def fill(to: Pointer, at: Expr, count: int, code: int) -> None:
    """Write a code `count` times."""
    whole = count // LANES if count > UNROLLED_BYTES else 0
    if whole:
        with loop(trip_count(whole)) as i:
            fill_vector(to.address(at + i * LANES), code)
    for first, lanes in _pieces(whole * LANES, count):
        to[at + first] = constant(code, "int8") if lanes == 1 else broadcast(constant(code, "int8"), lanes)


def _pieces(first: int, end: int) -> list[tuple[int, int]]:
    """Cut the codes from `first` on into runs of 16, 8, 4 and 1: (first, length)."""
    found = []
    for lanes in (LANES, 8, 4, 1):
        while end - first >= lanes:
            found.append((first, lanes))
            first += lanes
    return found
