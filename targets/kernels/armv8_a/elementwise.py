"""Add and pooling for AArch64, sixteen codes at a time."""

from collections.abc import Callable, Iterable

from qkd.graph.graph import Add, AveragePool2d, MaxPool2d, QuantGraph
from qkd.targets.kernels.armv8_a.build import build_kernel
from qkd.targets.kernels.armv8_a.chains import INT16_MAX
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES, tiles
from qkd.targets.kernels.armv8_a.requantize import Channels, narrow, to_codes
from qkd.targets.kernels.window import Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import (
    Expr,
    Pointer,
    Register,
    broadcast,
    cast,
    constant,
    high_half,
    lane,
    let,
    loop,
    low_half,
    maximum,
    nounroll,
    widen,
)

WORDS = VECTOR_BYTES // 4  # int32x4 in sixteen codes


def add_candidates(graph: QuantGraph, op: Add) -> Iterable[Kernel]:
    """The vector kernel of an add that fills a vector; the sums are those of the definition, in int32."""
    elements, p = graph.values[op.output].elements, op.epilogue

    def body(a: Pointer, b: Pointer, y: Pointer, _: None) -> None:
        with loop(elements // VECTOR_BYTES) as i:
            at = i * VECTOR_BYTES
            y[at] = _add(let(a.load(at, VECTOR_BYTES)), let(b.load(at, VECTOR_BYTES)))
        if elements % VECTOR_BYTES:  # not an overlapping vector: in place it would add twice
            with loop(elements % VECTOR_BYTES) as i:
                nounroll()
                at = i + elements // VECTOR_BYTES * VECTOR_BYTES
                y[at] = lane(_add(broadcast(a[at], VECTOR_BYTES), broadcast(b[at], VECTOR_BYTES)), 0)

    def _add(a: Expr, b: Expr) -> Expr:
        pairs = zip(words(a), words(b), strict=True)
        sums = [x * p.multiplier_a + y * p.multiplier_b for x, y in pairs]
        return narrow(sums, [constant(p.offset, "int32x4")] * WORDS, p.shift, p.qmin, p.qmax)

    if elements >= VECTOR_BYTES:
        yield build_kernel(graph, op, "vector_add", "exact in int32", body, in_place=True)


def words(codes: Expr) -> list[Expr]:
    """Sixteen int8 as four int32x4."""
    halves = [half(codes) for half in (low_half, high_half)]
    return [widen(quarter(cast(half, "int16"))) for half in halves for quarter in (low_half, high_half)]


def pool_candidates(graph: QuantGraph, op: AveragePool2d | MaxPool2d) -> Iterable[Kernel]:
    """The vector kernel of a pool with sixteen channels or more, where the sum of a window is proved to fit int16."""
    window, entry = window_of(graph, op), graph.values[op.input]
    largest = max(abs(entry.qmin), abs(entry.qmax)) * window.taps
    if window.channels < VECTOR_BYTES or (isinstance(op, AveragePool2d) and largest > INT16_MAX):
        return

    def body(x: Pointer, y: Pointer, _: None) -> None:
        with loop(window.out_height) as row, loop(window.out_width) as column:
            pixel = let(row * window.out_width + column)
            with tiles(window.channels, VECTOR_BYTES) as channel:
                start = let(
                    (row * window.stride[0] * window.width + column * window.stride[1]) * window.channels + channel
                )
                pooled = _largest(x, window, start) if isinstance(op, MaxPool2d) else _average(x, window, start, op)
                y[pixel * window.channels + channel] = pooled

    yield build_kernel(graph, op, "vector_pool", f"a window sums to at most {largest}, which int16 holds", body)


def _average(x: Pointer, window: Window, start: Expr, op: AveragePool2d) -> Expr:
    sums = [Register("int16x8") for _ in range(2)]

    def visit(codes: Expr) -> None:
        for total, half in zip(sums, (low_half, high_half), strict=True):
            total.value = total.value + cast(half(codes), "int16")

    _visit(x, window, start, visit)
    rq = op.epilogue
    channels = Channels((constant(rq.multiplier[0], "int32x4"),), (constant(rq.offset[0], "int32x4"),))
    return to_codes([widen(half(total.value)) for total in sums for half in (low_half, high_half)], rq, channels)


def _largest(x: Pointer, window: Window, start: Expr) -> Expr:
    result = Register("int8x16", -128)

    def visit(codes: Expr) -> None:
        result.value = maximum(result.value, codes)

    _visit(x, window, start, visit)
    return result.value


def _visit(x: Pointer, window: Window, start: Expr, visit: Callable[[Expr], None]) -> None:
    """Sixteen channels of every pixel of a window."""
    with loop(window.kernel[0]) as i, loop(window.kernel[1]) as j:
        visit(let(x.load((i * window.width + j) * window.channels + start, VECTOR_BYTES)))
