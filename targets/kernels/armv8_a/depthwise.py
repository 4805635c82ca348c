"""Depthwise convolution for AArch64: sixteen channels in the lanes, taps added in int16 for as long as they fit."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import DepthwiseConv2d, QuantGraph
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.chains import INT16_MAX
from qkd.targets.kernels.armv8_a.neon import forget_loads, hide, smull, total
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, pad_input, padded_height, padded_width, tiles
from qkd.targets.kernels.armv8_a.requantize import block_table, load_channels, to_codes
from qkd.targets.kernels.armv8_a.weights import channel_blocks
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, high_half, let, loop, low_half, minimum, widen

CHANNELS = 16
PIXELS = 2
MOST_TAPS = 25  # that are unrolled


def split_taps(taps: NDArray[np.int64], amax: int) -> tuple[int, ...] | None:
    """Lengths of the runs of taps whose sums are proved to fit int16 in every channel.

    Parameters
    ----------
    taps : int64 array of shape (C, taps)
        Weights of each channel.
    amax : int
        Largest magnitude of an input code.

    Returns
    -------
    tuple of int or None
        None where one product alone may leave int16.
    """
    lengths, sums = [0], np.zeros(len(taps), np.int64)
    for tap in np.abs(taps).T * amax:
        if int(tap.max()) > INT16_MAX:
            return None
        if int((sums + tap).max()) > INT16_MAX:
            lengths, sums = [*lengths, 0], np.zeros(len(taps), np.int64)
        sums = sums + tap
        lengths[-1] += 1
    return tuple(lengths)


def candidates(graph: QuantGraph, op: DepthwiseConv2d) -> Iterable[Kernel]:
    """The kernel of a depthwise convolution of sixteen channels or more and a window that can be unrolled."""
    window, entry, weight = window_of(graph, op), graph.values[op.input], graph.values[op.weight]
    taps = weight.codes.reshape(window.channels, -1)
    runs = split_taps(taps, max(abs(entry.qmin), abs(entry.qmax)))
    if runs and window.channels >= CHANNELS and window.taps <= MOST_TAPS:
        yield _kernel(graph, op, window, taps, runs)


def _kernel(
    graph: QuantGraph, op: DepthwiseConv2d, window: Window, taps: NDArray[np.int64], runs: tuple[int, ...]
) -> Kernel:
    blocks = channel_blocks(window.channels, CHANNELS)
    weights = np.stack([taps[list(b)].T for b in blocks]).astype(np.int8)
    line = padded_width(window) * window.channels
    padded = padded_height(window) * line + VECTOR_BYTES if any(window.padding) else 0
    pixels = min(PIXELS, window.out_width)
    zero_point = graph.values[op.input].qparams.zero_point

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, scratch: Pointer | None) -> None:
        if scratch is not None:
            pad_input(x, scratch, window, zero_point)
        memory = x if scratch is None else scratch
        with loop(len(blocks)) as block:
            first = let(minimum(block * CHANNELS, window.channels - CHANNELS))
            place = block * (window.taps * CHANNELS)
            vectors = [let(weights.load(place + tap * CHANNELS, CHANNELS)) for tap in range(window.taps)]
            with loop(window.out_height) as row, tiles(window.out_width, pixels) as column:
                forget_loads()
                at = row * (window.stride[0] * line) + column * (window.stride[1] * window.channels) + first
                sums = _sums(memory, hide(at), vectors, window, runs, pixels)
                channels = load_channels(table, block, CHANNELS)
                result = let((row * window.out_width + column) * window.channels + first)
                for pixel, accs in enumerate(sums):
                    y[result + pixel * window.channels] = to_codes(accs, op.epilogue, channels)

    why = f"runs of {', '.join(map(str, runs))} taps fit int16 in every channel"
    constants = (weights, block_table(op.epilogue, blocks))
    return build_kernel(graph, op, f"depthwise_{len(runs)}", why, body, constants, padded)


def _sums(
    memory: Pointer, at: Expr, vectors: list[Expr], window: Window, runs: tuple[int, ...], pixels: int
) -> list[list[Expr]]:
    """For each pixel, sixteen channels as four int32x4; pixels share the codes that their windows share."""
    line, columns = padded_width(window) * window.channels, window.kernel[1]
    codes: dict[tuple[int, int], Expr] = {}

    def code(pixel: int, tap: int) -> Expr:
        place = (tap // columns, tap % columns + pixel * window.stride[1])
        if place not in codes:
            codes[place] = let(memory.load(at + (place[0] * line + place[1] * window.channels), CHANNELS))
        return codes[place]

    totals: list[list[Expr]] = [[] for _ in range(pixels)]
    start = 0
    for length in runs:
        for pixel in range(pixels):
            halves = []
            for half in (low_half, high_half):
                products = [smull(half(code(pixel, tap)), half(vectors[tap])) for tap in range(start, start + length)]
                halves.append(let(total(products)))
            wide = [widen(half(v)) for v in halves for half in (low_half, high_half)]
            previous = totals[pixel]
            totals[pixel] = [let(a + b) for a, b in zip(previous, wide, strict=True)] if previous else wide
        start += length
    return totals
