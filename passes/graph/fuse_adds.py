"""Fuse a convolution and the residual add behind it, so that the codes between them are never stored.

That saves their buffer, which in a residual network is the one that decides how large the arena is, and a store, a load
and a loop for every code. What is computed stays the same to the bit.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from qkd.graph.graph import Add, Conv2d, Conv2dAdd, Op, QuantGraph, op_inputs
from qkd.pipeline import Invariant


def fused_codes_have_no_reader(graph: QuantGraph) -> str | None:
    """What a fused convolution computes is read by its add only: it exists nowhere."""
    gone = {op.conv.output for op in graph.ops if isinstance(op, Conv2dAdd)}
    read = {name for op in graph.ops for name in op_inputs(op)} | set(graph.outputs)
    return f"{', '.join(sorted(gone & read))} of {graph.name!r} is read, but never stored" if gone & read else None


@dataclass(frozen=True)
class FuseAdds:
    """Fuse `adds`, by name, with the convolutions before them; others stay as they are."""

    adds: frozenset[str]

    name: ClassVar[str] = "fuse_adds"
    requires: ClassVar[tuple[Invariant[QuantGraph], ...]] = ()
    forbids: ClassVar[tuple[Invariant[QuantGraph], ...]] = ()
    ensures: ClassVar[tuple[Invariant[QuantGraph], ...]] = (fused_codes_have_no_reader,)

    def __call__(self, graph: QuantGraph) -> QuantGraph:
        """Return the graph with fused operators; its hash stays the same."""
        return fuse_adds(graph, [pair for pair in fusable_adds(graph) if pair.add.name in self.adds])


def fusable_adds(graph: QuantGraph) -> Iterator[Conv2dAdd]:
    """Every convolution whose codes only the next operator reads, once, and that is an add: the addend is there."""
    readers = Counter(name for op in graph.ops for name in op_inputs(op)) + Counter(graph.outputs)
    for first, second in pairwise(graph.ops):
        if not (isinstance(first, Conv2d) and isinstance(second, Add)):
            continue
        if first.output in op_inputs(second) and readers[first.output] == 1:
            yield Conv2dAdd(first, second)


def fuse_adds(graph: QuantGraph, pairs: Iterable[Conv2dAdd]) -> QuantGraph:
    """Put each pair in the place of its two operators."""
    pairs = tuple(pairs)
    fused: dict[str, Op] = {pair.conv.name: pair for pair in pairs}
    gone = {pair.add.name for pair in pairs}
    return replace(graph, ops=tuple(fused.get(op.name, op) for op in graph.ops if op.name not in gone))
