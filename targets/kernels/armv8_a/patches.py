"""Where the kernels find the codes under each output pixel: in the input itself, in a padded copy, or gathered.

A patch is `segments` runs of consecutive bytes, each a multiple of 16. What a run reads beyond its taps meets weights
of zero.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.targets.kernels.armv8_a.neon import forget_loads
from qkd.targets.kernels.window import Window
from qkd.tir.tir import Expr, Operand, Pointer, constant, let, loop, minimum

VECTOR_BYTES = 16
MOST_TAPS = 5  # that a kernel unrolls
GATHER_GAIN = 0.9  # gather where it saves a tenth of the multiply-accumulates


def ceil_to(count: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-count // step) * step


@dataclass(frozen=True)
class Patches:
    """Geometry of the patches that `prepare` leaves; strides are in bytes."""

    window: Window
    zero_point: int
    rows: int
    columns: int
    segments: int
    segment_bytes: int
    segment_stride: int
    pixel_stride: int
    row_stride: int
    padded_bytes: int = 0
    """Of the padded copy; 0: none."""
    gathered_bytes: int = 0
    """Of the gathered patches, which follow the padded copy; 0: none."""

    @property
    def taps(self) -> int:
        """Bytes of a patch."""
        return self.segments * self.segment_bytes

    @property
    def scratch_bytes(self) -> int:
        """Workspace of `prepare`."""
        return self.padded_bytes + self.gathered_bytes

    def side_by_side(self) -> tuple[int, int]:
        """How a segment's chunks divide into the taps of a row, and the chunks of one tap's channels."""
        chunks = self.segment_bytes // VECTOR_BYTES
        taps = self.window.kernel[1]
        whole = self.window.channels % VECTOR_BYTES == 0 and taps <= MOST_TAPS and not self.gathered_bytes
        return (taps, chunks // taps) if whole else (1, chunks)

    def arrange(self, weight: NDArray[np.int64]) -> NDArray[np.int8]:
        """OHWI weights in the order of a patch's bytes: (O, taps)."""
        runs = weight.reshape(len(weight), self.segments, -1)
        spare = self.segment_bytes - runs.shape[2]
        return np.pad(runs, ((0, 0), (0, 0), (0, spare))).reshape(len(weight), -1).astype(np.int8)

    def prepare(self, x: Pointer, scratch: Pointer | None) -> tuple[Pointer, int]:
        """Copy what must be copied; gives the memory of the patches and the first one's place."""
        if scratch is None or not self.padded_bytes:
            return x, 0
        pad_input(x, scratch, self.window, self.zero_point)
        if not self.gathered_bytes:
            return scratch, 0
        _gather(scratch, self)
        return scratch, self.padded_bytes


def patches_of(window: Window, zero_point: int) -> Patches:
    """Choose the cheapest place for the patches of an operator."""
    kernel_height, kernel_width = window.kernel
    run = kernel_width * window.channels
    stride_y, stride_x = window.stride
    if not any(window.padding) and run % VECTOR_BYTES == 0:
        flat = window.taps == 1 and window.stride == (1, 1)
        rows, columns = (1, window.out_height * window.out_width) if flat else (window.out_height, window.out_width)
        line = window.width * window.channels
        return Patches(window, zero_point, rows, columns, kernel_height, run, line,
                       stride_x * window.channels, stride_y * line)  # fmt: skip
    line = padded_width(window) * window.channels
    padded = ceil_to(padded_height(window) * line + VECTOR_BYTES, VECTOR_BYTES)
    direct, gathered = kernel_height * ceil_to(run, VECTOR_BYTES), ceil_to(kernel_height * run, VECTOR_BYTES)
    if gathered <= GATHER_GAIN * direct:
        pixels = window.out_height * window.out_width
        return Patches(window, zero_point, 1, pixels, 1, gathered, 0, gathered, 0, padded,
                       pixels * gathered + VECTOR_BYTES)  # fmt: skip
    return Patches(window, zero_point, window.out_height, window.out_width, kernel_height, direct // kernel_height,
                   line, stride_x * window.channels, stride_y * line, padded)  # fmt: skip


def padded_height(window: Window) -> int:
    """Rows of the padded copy."""
    return window.height + window.padding[0] + window.padding[1]


def padded_width(window: Window) -> int:
    """Columns of the padded copy."""
    return window.width + window.padding[2] + window.padding[3]


def pad_input(x: Pointer, padded: Pointer, window: Window, zero_point: int, start: int = 0) -> None:
    """Copy the input into a frame of its zero point, which begins at byte `start`."""
    top, _, left, _ = window.padding
    line, run = padded_width(window) * window.channels, window.width * window.channels
    if any(window.padding):
        fill(padded, start, padded_height(window) * line, zero_point)
    first = start + top * line + left * window.channels
    if run == line:
        copy(padded, first, x, 0, window.height * run)
        return
    with loop(window.height) as row:
        forget_loads()
        copy(padded, let(row * line + first), x, let(row * run), run)


def fill(to: Pointer, start: int, size: int, value: int) -> None:
    """Set `size` bytes, rounded up to whole vectors."""
    with loop(ceil_to(size, VECTOR_BYTES) // VECTOR_BYTES) as i:
        to[i * VECTOR_BYTES + start] = constant(value, "int8x16")


def copy(to: Pointer, to_start: Operand, source: Pointer, source_start: Operand, size: int) -> None:
    """Copy exactly `size` bytes."""
    whole = size // VECTOR_BYTES
    if whole:
        with loop(whole) as i:
            to[i * VECTOR_BYTES + to_start] = source.load(i * VECTOR_BYTES + source_start, VECTOR_BYTES)
    rest = size - whole * VECTOR_BYTES
    if rest and whole:  # the last vector overlaps the one before
        last = size - VECTOR_BYTES
        to[constant(last) + to_start] = source.load(constant(last) + source_start, VECTOR_BYTES)
    elif rest:
        with loop(rest) as i:
            to[i + to_start] = source[i + source_start]


@contextmanager
def tiles(count: int, size: int) -> Iterator[Expr]:
    """Cover `count` places by tiles of `size`, which must not exceed it; the last one may overlap. Gives the start."""
    with loop(-(-count // size)) as tile:
        yield tile * size if count % size == 0 else let(minimum(tile * size, count - size))


def _gather(scratch: Pointer, patches: Patches) -> None:
    """Copy each patch out of the padded input; a run's last vector spills into what is written next."""
    window = patches.window
    line, run = padded_width(window) * window.channels, window.kernel[1] * window.channels
    with loop(window.out_height) as row, loop(window.out_width) as column:
        source = let(row * (window.stride[0] * line) + column * (window.stride[1] * window.channels))
        target = let((row * window.out_width + column) * patches.segment_bytes + patches.padded_bytes)
        for i in range(window.kernel[0]):
            for start in range(0, run, VECTOR_BYTES):
                scratch[target + (i * run + start)] = scratch.load(source + (i * line + start), VECTOR_BYTES)
