"""What kernels of both Thumb instruction sets, Armv6-M and Armv7E-M, are built of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qkd.graph.graph import Add, QuantGraph
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.window import Window
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Operand, Pointer, cast, constant, let, loop, minimum, nounroll, when


@contextmanager
def rolled(count: Operand) -> Iterator[Expr]:
    """A loop that LLVM does not unroll."""
    with loop(count) as index:
        nounroll()
        yield index


@contextmanager
def reached_rows(row: Expr, window: Window, step: int) -> Iterator[tuple[Expr, Expr]]:
    """For each row of the window, where an output row has input row `row` under it: both rows' numbers.

    Input rows count from the first one of padding; output rows lie `step` of them apart.
    """
    with rolled(window.kernel[0]) as window_row:
        ahead = let(row - window_row)
        reached = (ahead >= 0) & (ahead < window.out_height * step)
        if step > 1:
            reached = reached & (ahead % step).equals(0)
        with when(reached):
            yield ahead // step, window_row


def fill_words(words: Pointer, at: Expr, count: int, pair: int) -> None:
    """Write one word `count` times."""
    unroll = next(u for u in (8, 6, 4, 2, 1) if count % u == 0)
    with rolled(count // unroll) as block:
        for i in range(unroll):
            words[at + block * unroll + i] = pair


def code_pair(code: int) -> int:
    """A code in both halves of a word, as int32."""
    pair = (code & 0xFFFF) * 0x10001
    return pair - (1 << 32) if pair >> 31 else pair


def tile_start(number: Expr, size: int, count: int) -> Expr:
    """First element of a tile; the last one overlaps its neighbour where `size` does not divide `count`."""
    start = number * size
    return let(start if count % size == 0 else minimum(start, count - size))


def tile_starts(count: int, size: int) -> list[int]:
    """Where tiles of `size` start so that they cover `count`; the last one overlaps where `size` does not divide it."""
    return [min(start, count - size) for start in range(0, count, size)]


ADD_UNROLL = 4


def unrolled_add(graph: QuantGraph, op: Add, added: Callable[[Expr, Expr], Expr], variant: str) -> Kernel:
    """A few elements a turn, each by `added`; works in place."""
    elements = graph.values[op.output].elements

    def body(a: Pointer, b: Pointer, y: Pointer) -> None:
        with rolled(elements // ADD_UNROLL) as block:
            for i in range(ADD_UNROLL):
                at = block * ADD_UNROLL + i
                y[at] = cast(added(a[at], b[at]), "int8")
        for i in range(elements - elements % ADD_UNROLL, elements):
            y[constant(i)] = cast(added(a[constant(i)], b[constant(i)]), "int8")

    return make_kernel(graph, op, body, in_place=True, variant=variant, why="AddRescale is exact in int32")
