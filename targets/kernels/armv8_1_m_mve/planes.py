"""The input rows under an output row, padded, channel by channel: [channel][column][row of the window]."""

from collections.abc import Callable
from dataclasses import dataclass

from qkd.targets.kernels.armv8_1_m_mve.patches import Strip
from qkd.targets.kernels.armv8_1_m_mve.products import vectors_of
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, QUAD, scatter, trip_count
from qkd.tir.tir import Expr, Pointer, branch, broadcast, constant, let, loop, minimum, vector

SCATTERED = 8
"""Channels that one instruction stores to their planes."""


@dataclass(frozen=True)
class Planes(Strip):
    """A strip for a depthwise window."""

    @property
    def plane(self) -> int:
        """Codes of one channel."""
        return self.columns * self.window.kernel[0]

    @property
    def scratch_bytes(self) -> int:
        """Planes of whole quads of channels, and what the last vector reads behind them."""
        channels = -(-self.window.channels // QUAD) * QUAD
        size = channels * self.plane + vectors_of(self.window.taps) * LANES
        return size + -size % LANES

    @property
    def can_scatter(self) -> bool:
        """Offsets of the planes of one instruction fit its 16 bits."""
        return (SCATTERED - 1) * self.plane < 2**15

    def advance(self, x: Pointer, strip: Pointer, out_row: Expr) -> None:
        """Bring the input rows under the windows of an output row into the strip."""
        window = self.window
        if not self.inside:
            return
        with loop(window.kernel[0]) as i:
            row = let(out_row * window.stride[0] + i - window.padding[0])
            start = let(row * (window.width * window.channels))
            to = let(i + window.padding[2] * window.kernel[0])

            def copy_row(start: Expr = start, to: Expr = to) -> None:
                self._each_pixel(to, lambda first, pixel, lanes: _load(x, start + pixel + first, lanes), strip)

            def fill_row(to: Expr = to) -> None:
                self._each_pixel(to, lambda first, pixel, lanes: _codes(self.zero_point, lanes), strip)

            if window.padding[0] or window.padding[1]:
                branch((row >= 0) & (row < window.height), copy_row, fill_row)
            else:
                copy_row()

    def start(self, channel: Expr, pixel: Expr) -> Expr:
        """Where the window of a channel begins for an output pixel."""
        return channel * self.plane + pixel * (self.window.stride[1] * self.window.kernel[0])

    def _each_pixel(self, to: Expr, codes: Callable[[Expr, Expr, int], Expr], strip: Pointer) -> None:
        """Store the codes of each input pixel of a row into one place of every plane."""
        window = self.window
        offsets = vector([channel * self.plane for channel in range(SCATTERED)], "int16")
        with loop(trip_count(self.inside)) as pixel:
            at = let(to + pixel * window.kernel[0])
            if window.channels < SCATTERED:
                for channel in range(window.channels):
                    strip[at + channel * self.plane] = codes(constant(channel), pixel * window.channels, 1)
                return
            # The last group begins early enough to be whole, and stores some channels a second time.
            with loop(-(-window.channels // SCATTERED)) as group:
                first = let(minimum(group * SCATTERED, window.channels - SCATTERED))
                here = codes(first, pixel * window.channels, SCATTERED)
                scatter(strip.address(at + first * self.plane), offsets, here)


def _load(x: Pointer, start: Expr, lanes: int) -> Expr:
    return x[start] if lanes == 1 else x.load(start, lanes)


def _codes(code: int, lanes: int) -> Expr:
    return constant(code, "int8") if lanes == 1 else broadcast(constant(code, "int8"), lanes)
