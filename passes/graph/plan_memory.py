"""Give every activation and workspace its place in one arena, reusing bytes as soon as they are dead.

Placement is first fit, tried in several orders (all of them for small networks); `lower_bound` says how good any plan
can be. An operator whose kernel works in place may write over an input that dies there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import ClassVar

from qkd.errors import DoesNotFitError
from qkd.graph.graph import QuantGraph, op_inputs
from qkd.graph.steps import ARENA_ALIGN, steps
from qkd.pipeline import Invariant

EXHAUSTIVE_BLOCKS = 7  # 5,040 orders take about 0.1 s


@dataclass(frozen=True)
class Block:
    """Bytes that are live from step `first` to step `last`, both included; an in-place chain is one block."""

    names: tuple[str, ...]
    size_bytes: int
    first: int
    last: int

    def meets(self, other: "Block") -> bool:
        """Whether both are live at some step."""
        return self.first <= other.last and other.first <= self.last


def live_bytes_fit_no_overlap(graph: QuantGraph) -> str | None:
    """No two buffers that are live at the same time share a byte of the arena."""
    if graph.arena_bytes is None:
        return "the graph has no memory plan"
    over = {op.output: graph.in_place_sources(op) for op in graph.ops}
    placed = [(b, graph.offsets[b.names[0]]) for b in _single_blocks(graph)]  # in order of production
    for i, (late, at_late) in enumerate(placed):
        if at_late + late.size_bytes > graph.arena_bytes:
            return f"{late.names[0]} ends at byte {at_late + late.size_bytes} of {graph.arena_bytes}"
        for early, at_early in placed[:i]:
            shared = at_late < at_early + early.size_bytes and at_early < at_late + late.size_bytes
            in_place = at_late == at_early and early.last == late.first and early.names[0] in over[late.names[0]]
            if late.meets(early) and shared and not in_place:
                return f"{late.names[0]} at {at_late} and {early.names[0]} at {at_early} overlap"
    return None


@dataclass(frozen=True)
class PlanMemory:
    """Plan the arena.

    `scratch_bytes` are the workspaces by operator, `in_place` the operators that may write over an input that
    `QuantGraph.in_place_sources` names; `sram_bytes` is what the device or the recipe allows (None: no limit).
    """

    scratch_bytes: Mapping[str, int] = field(default_factory=dict)
    in_place: frozenset[str] = frozenset()
    sram_bytes: int | None = None
    device: str = "the device"

    name: ClassVar[str] = "plan_memory"
    requires: ClassVar[tuple[Invariant[QuantGraph], ...]] = ()
    forbids: ClassVar[tuple[Invariant[QuantGraph], ...]] = ()
    ensures: ClassVar[tuple[Invariant[QuantGraph], ...]] = (live_bytes_fit_no_overlap,)

    def __call__(self, graph: QuantGraph) -> QuantGraph:
        """Return the graph with offsets, or raise DoesNotFitError."""
        planned = plan(graph, self.scratch_bytes, self.in_place)
        if self.sram_bytes is not None and (planned.arena_bytes or 0) > self.sram_bytes:
            raise _too_large(planned, self.scratch_bytes, self.sram_bytes, self.device)
        return planned


def plan(graph: QuantGraph, scratch_bytes: Mapping[str, int], in_place: Iterable[str]) -> QuantGraph:
    """Place all blocks and return the graph with the smallest plan found."""
    blocks = _chain(graph, _single_blocks(graph), frozenset(in_place))
    work = [Block((op.name,), _aligned(scratch_bytes[op.name]), i, i) for i, op in enumerate(steps(graph))
            if scratch_bytes.get(op.name)]  # fmt: skip
    places, arena_bytes = _best_placement([*blocks, *work])
    offsets = {name: places[b] for b in blocks for name in b.names}
    return graph.with_plan(offsets, {b.names[0]: places[b] for b in work}, arena_bytes)


def placed_blocks(graph: QuantGraph, scratch_bytes: Mapping[str, int]) -> list[tuple[Block, int, bool]]:
    """Every buffer of a planned graph, its offset, and whether it is a workspace: the arena as a picture shows it."""
    values = [(block, graph.offsets[block.names[0]], False) for block in _single_blocks(graph)]
    work = [
        (Block((op.name,), _aligned(scratch_bytes[op.name]), i, i), graph.scratch_offsets[op.name], True)
        for i, op in enumerate(steps(graph))
        if op.name in graph.scratch_offsets
    ]
    return [*values, *work]


def lower_bound(graph: QuantGraph, scratch_bytes: Mapping[str, int], in_place: Iterable[str] = ()) -> int:
    """Bytes that are live at the fullest step: no plan can be smaller."""
    blocks = _chain(graph, _single_blocks(graph), frozenset(in_place))
    return max(
        (
            sum(b.size_bytes for b in blocks if b.first <= i <= b.last) + _aligned(scratch_bytes.get(op.name, 0))
            for i, op in enumerate(steps(graph))
        ),
        default=0,
    )


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ARENA_ALIGN) * ARENA_ALIGN


def _single_blocks(graph: QuantGraph) -> list[Block]:
    """One block an arena value, from the step that writes it to the last one that reads it."""
    born = {name: i for i, op in enumerate(steps(graph)) for name in [op.output]}
    last = dict(born)
    for i, op in enumerate(steps(graph)):
        for name in op_inputs(op):
            last[graph.storage(name)] = i
    return [
        Block((name,), _aligned(graph.values[name].buffer_bytes), born[name], last[name])
        for name in graph.arena_values()
    ]


def _chain(graph: QuantGraph, blocks: list[Block], in_place: frozenset[str]) -> list[Block]:
    """Merge the output of an in-place operator with the input that dies in it."""
    merged = {b.names[-1]: b for b in blocks}
    for i, op in enumerate(steps(graph)):
        if op.name not in in_place or op.output not in merged:
            continue
        after = merged[op.output]
        for source in graph.in_place_sources(op):
            before = merged.get(source)
            if before is not None and before.last == i and before.size_bytes == after.size_bytes:
                del merged[source]
                merged[op.output] = Block((*before.names, *after.names), after.size_bytes, before.first, after.last)
                break
    return list(merged.values())


def _best_placement(blocks: Sequence[Block]) -> tuple[dict[Block, int], int]:
    best: tuple[dict[Block, int], int] = ({}, 0 if not blocks else 2**63)
    floor = max((sum(b.size_bytes for b in blocks if b.first <= at.first <= b.last) for at in blocks), default=0)
    for order in _orders(blocks):
        candidate = _place(order)
        best = min(best, candidate, key=lambda found: found[1])
        if best[1] == floor:
            break
    return best


def _orders(blocks: Sequence[Block]) -> Iterable[Sequence[Block]]:
    yield sorted(blocks, key=lambda b: (-b.size_bytes, b.first))
    yield sorted(blocks, key=lambda b: (b.first, -b.size_bytes))
    yield sorted(blocks, key=lambda b: (-(b.last - b.first), -b.size_bytes))
    yield sorted(blocks, key=lambda b: -(b.last - b.first + 1) * b.size_bytes)
    if len(blocks) <= EXHAUSTIVE_BLOCKS:
        yield from permutations(blocks)


def _place(order: Sequence[Block]) -> tuple[dict[Block, int], int]:
    """First fit in the given order; also returns the arena's size."""
    places: dict[Block, int] = {}
    for block in order:
        offset = 0
        for other, at in sorted(places.items(), key=lambda item: item[1]):
            if block.meets(other):
                if offset + block.size_bytes <= at:
                    break
                offset = max(offset, at + other.size_bytes)
        places[block] = offset
    return places, max((at + b.size_bytes for b, at in places.items()), default=0)


def _too_large(graph: QuantGraph, scratch_bytes: Mapping[str, int], limit: int, device: str) -> DoesNotFitError:
    """Name the fullest step and the largest tensor."""
    single = _single_blocks(graph)
    need = [
        (sum(b.size_bytes for b in single if b.first <= i <= b.last) + scratch_bytes.get(op.name, 0), op.name)
        for i, op in enumerate(steps(graph))
    ]
    largest = max(single, key=lambda b: b.size_bytes)
    return DoesNotFitError(
        f"{max(need)[1]} of {graph.name!r} needs the most of {graph.arena_bytes:,} arena bytes on {device}; "
        f"{limit:,} are available. The largest tensor is {largest.names[0]} ({largest.size_bytes:,}). "
        "Use a narrower student, a smaller input or a device with more SRAM."
    )
