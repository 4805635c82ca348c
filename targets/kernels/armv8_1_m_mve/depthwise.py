"""Depthwise convolutions on MVE: the window of a channel is a vector, so that VMLADAVA multiplies all taps at once.

MVE has no lane-wise multiply-accumulate of two vectors, and eight-bit weights would need 32-bit lanes for one. Here a
strip holds the input rows under an output row channel by channel, [channel][column][row of the window]: the taps of a
pixel are one run, and a result costs a load and a product whatever the weights' width.
"""

from collections.abc import Iterator

from qkd.graph.graph import DepthwiseConv2d, QuantGraph, accumulator_bound
from qkd.targets.kernels.armv8_1_m_mve.conv import packed_bits
from qkd.targets.kernels.armv8_1_m_mve.planes import Planes
from qkd.targets.kernels.armv8_1_m_mve.products import PassLayout, pack_passes, pass_codes, vectors_of
from qkd.targets.kernels.armv8_1_m_mve.results import (
    Finish,
    finish_of,
    finish_quad,
    load_parameters,
    store_quad,
    unsafe_finish,
)
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, PRELUDE, QUAD, dot, trip_count
from qkd.targets.kernels.candidate import Refused
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Operand, Pointer, constant, let, loop, shuffle


def candidates(graph: QuantGraph, op: DepthwiseConv2d) -> Iterator[Kernel | Refused]:
    """The kernel with packed weights, then the one with a byte a weight; nothing for rows too wide to scatter."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    planes = Planes(window_of(graph, op), entry.qparams.zero_point)
    bound = accumulator_bound(weight.codes, entry.qmin, entry.qmax)
    for bits in sorted({packed_bits(weight), 8}) if planes.can_scatter else ():
        finish = finish_of(op.epilogue, weight.shape[0], bound, 8 - bits)
        if finish is None:
            yield Refused(f"mve_depthwise_w{bits}", unsafe_finish(op.epilogue, bound, 8 - bits))
        else:
            yield _kernel(graph, op, planes, bits, finish)


def _kernel(graph: QuantGraph, op: DepthwiseConv2d, planes: Planes, bits: int, finish: Finish) -> Kernel:
    window = planes.window
    layout = PassLayout(bits, QUAD, vectors_of(window.taps))
    # Taps in the order of a plane: by column, then by row of the window.
    rows = graph.values[op.weight].codes.reshape(-1, *window.kernel).transpose(0, 2, 1).reshape(-1, window.taps)

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, strip: Pointer) -> None:
        planes.begin(strip)
        with loop(window.out_height) as row:
            planes.advance(x, strip, row)
            with loop(-(-window.channels // QUAD)) as quad:
                codes = list(pass_codes(weights, let(quad * layout.size_bytes), layout))
                parameters = load_parameters(table, quad, finish)
                with loop(trip_count(window.out_width)) as pixel:
                    start = let(planes.start(quad * QUAD, pixel))
                    acc = shuffle([_taps(strip, start + i * planes.plane, codes, i) for i in range(QUAD)], range(QUAD))
                    at = (row * window.out_width + pixel) * window.channels + quad * QUAD
                    store_quad(y, at, finish_quad(let(acc), parameters, finish), quad, window.channels)

    return make_kernel(
        graph, op, body, (pack_passes(rows, layout), finish.table), planes.scratch_bytes,
        variant=f"mve_depthwise_w{bits}", prelude=PRELUDE,
        why="one VMLADAVA multiplies the taps of a channel; the accumulator's bound is below 2**31",
    )  # fmt: skip


def _taps(strip: Pointer, start: Expr, codes: list[tuple[Operand, list[Expr]]], channel: int) -> Expr:
    """Sum of products of one channel's window."""
    acc = constant(0)
    for k, weights in codes:
        acc = dot(acc, strip.load(start + k, LANES), weights[channel])
    return acc
