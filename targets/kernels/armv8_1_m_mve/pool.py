"""Pools on MVE: lanes are channels, and the last vector of a pixel begins early enough to be whole."""

from collections.abc import Callable, Iterable

from qkd.graph.graph import AveragePool2d, MaxPool2d, QuantGraph
from qkd.targets.kernels.armv8_1_m_mve.results import Rescale, rescale
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, PRELUDE, QUAD, mulhi, narrow, narrow_pair
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, Register, cast, constant, let, loop, maximum, minimum, shuffle, widen

HALVES = 8
"""Lanes of 16 bits in a vector."""


def candidates(graph: QuantGraph, op: AveragePool2d | MaxPool2d) -> Iterable[Kernel]:
    """One kernel, with as many lanes as there are channels for and as sums leave room for; nothing below four."""
    window, entry = window_of(graph, op), graph.values[op.input]
    if isinstance(op, MaxPool2d):
        lanes = _most_lanes(window.channels, LANES)
        if lanes:
            yield _pool(graph, op, window, lanes, "int8", lambda best: best)
        return
    bound = max(abs(entry.qmin), abs(entry.qmax)) * window.taps
    lanes = _most_lanes(window.channels, HALVES if bound < 2**15 else QUAD)
    finish = rescale(op.epilogue, 1, bound, 0)
    if lanes and finish is not None:
        yield _pool(graph, op, window, lanes, f"int{128 // lanes}", lambda total: _average(total, finish))


def _most_lanes(channels: int, limit: int) -> int:
    return next((lanes for lanes in (LANES, HALVES, QUAD) if lanes <= min(channels, limit)), 0)


def _pool(
    graph: QuantGraph, op: AveragePool2d | MaxPool2d, window: Window, lanes: int, scalar: str,
    finish: Callable[[Expr], Expr],
) -> Kernel:  # fmt: skip
    """A kernel that keeps the sum or the largest code of a window in lanes of type `scalar`."""
    average = isinstance(op, AveragePool2d)

    def body(x: Pointer, y: Pointer) -> None:
        with (
            loop(window.out_height) as row, loop(window.out_width) as column,
            loop(-(-window.channels // lanes)) as group,
        ):  # fmt: skip
            first = let(minimum(group * lanes, window.channels - lanes))
            result = Register(f"{scalar}x{lanes}", 0 if average else -128)
            start = (row * window.stride[0] * window.width + column * window.stride[1]) * window.channels + first
            with loop(window.kernel[0]) as i, loop(window.kernel[1]) as j:
                codes = cast(x.load(start + (i * window.width + j) * window.channels, lanes), scalar)
                result.value = result.value + codes if average else maximum(result.value, codes)
            y[(row * window.out_width + column) * window.channels + first] = finish(let(result.value))

    kind = "average" if average else "max"
    why = f"{lanes} channels at a time" + (f"; a sum of codes fits {scalar}" if average else "")
    return make_kernel(graph, op, body, variant=f"mve_{kind}_{lanes}", why=why, prelude=PRELUDE)


def _average(total: Expr, rq: Rescale) -> Expr:
    """Requantize sums, all by the same multiplier."""
    multiplier, offset = (constant(int(entry), "int32x4") for entry in rq.table[0, :, 0])

    def scaled(acc: Expr) -> Expr:
        return let(mulhi(acc << rq.pre_shift, multiplier) + offset)

    if total.dtype == "int32x4":
        return narrow(scaled(total), rq.shift, rq.qmin, rq.qmax)
    even, odd = (scaled(widen(shuffle((total,), range(odd, HALVES, 2)))) for odd in (0, 1))
    return narrow_pair(even, odd, rq.shift, rq.qmin, rq.qmax)
