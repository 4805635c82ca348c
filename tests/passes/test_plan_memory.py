"""The memory plan: never overlapping, close to the lower bound, in place where allowed, honest when it does not fit."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.random_graphs import RandomGraph, residual_graph
from qkd.errors import DoesNotFitError, InvariantError
from qkd.graph.graph import Add, QuantGraph
from qkd.passes.graph.plan_memory import PlanMemory, live_bytes_fit_no_overlap, lower_bound
from qkd.pipeline import run_passes


def adds(graph: QuantGraph) -> frozenset[str]:
    return frozenset(op.name for op in graph.ops if isinstance(op, Add))


@st.composite
def branching_graphs(draw: st.DrawFn) -> QuantGraph:
    """Chains of 1x1 convolutions with adds between tensors of one size, of varying channel counts."""
    g = RandomGraph(draw(st.integers(0, 99)), (4, 4, 4))
    same: dict[int, list[str]] = {}
    x = g.conv(g.input, 4, (1, 1))
    for _ in range(draw(st.integers(1, 8))):
        channels = g.values[x].shape[-1]
        same.setdefault(channels, []).append(x)
        if len(same[channels]) > 1 and draw(st.booleans()):
            x = g.add(x, draw(st.sampled_from(same[channels][:-1])))
        else:
            x = g.conv(x, draw(st.sampled_from([4, 8, 24])), (1, 1))
    return g.build(g.fully_connected(g.flatten(x), 3))


@given(branching_graphs(), st.booleans(), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_no_two_live_buffers_share_a_byte(graph: QuantGraph, in_place: bool, scratch: int) -> None:
    work = {op.name: scratch for op in graph.ops}
    planned = PlanMemory(work, adds(graph) if in_place else frozenset())(graph)
    assert live_bytes_fit_no_overlap(planned) is None
    assert planned.arena_bytes is not None
    for op in planned.ops:
        at = planned.scratch_offsets.get(op.name)
        for name in (op.output, op.input) if at is not None else ():
            if (where := planned.offsets.get(planned.storage(name))) is not None:
                size = planned.values[name].buffer_bytes
                assert at + scratch <= where or where + size <= at


@given(branching_graphs())
@settings(max_examples=60, deadline=None)
def test_the_plan_is_within_a_quarter_of_the_lower_bound(graph: QuantGraph) -> None:
    """Interval packing is NP-hard; a quarter is what first fit was never seen to exceed on these graphs."""
    planned = PlanMemory(in_place=adds(graph))(graph)
    bound = lower_bound(graph, {}, adds(graph))
    assert bound <= (planned.arena_bytes or 0) <= 1.25 * bound


def test_the_residual_network_reaches_the_lower_bound() -> None:
    graph = residual_graph()
    assert PlanMemory(in_place=adds(graph))(graph).arena_bytes == lower_bound(graph, {}, adds(graph))


def test_an_in_place_add_writes_over_the_input_that_dies() -> None:
    graph = residual_graph()
    add = next(op for op in graph.ops if isinstance(op, Add))
    planned = PlanMemory(in_place=adds(graph))(graph)
    assert planned.offsets[add.output] in (planned.offsets[add.input], planned.offsets[add.other])


def test_without_permission_the_add_gets_a_buffer_of_its_own() -> None:
    graph = residual_graph()
    add = next(op for op in graph.ops if isinstance(op, Add))
    planned = PlanMemory()(graph)
    assert planned.offsets[add.output] not in (planned.offsets[add.input], planned.offsets[add.other])


def test_offsets_are_aligned_to_sixteen_bytes() -> None:
    planned = PlanMemory({op.name: 5 for op in residual_graph().ops})(residual_graph())
    assert all(offset % 16 == 0 for offset in (*planned.offsets.values(), *planned.scratch_offsets.values()))


def test_too_little_sram_names_the_layer_the_bytes_and_the_largest_tensor() -> None:
    with pytest.raises(DoesNotFitError, match=r"needs the most of [\d,]+ arena bytes on cortex_m4; 100 are available"):
        PlanMemory(sram_bytes=100, device="cortex_m4")(residual_graph())


def test_a_damaged_plan_is_caught_by_the_rule_after_the_pass() -> None:
    class Damage(PlanMemory):
        def __call__(self, graph: QuantGraph) -> QuantGraph:
            planned = super().__call__(graph)
            return replace(planned, offsets=dict.fromkeys(planned.offsets, 0))

    with pytest.raises(InvariantError, match="overlap"):
        run_passes([Damage()], residual_graph())
