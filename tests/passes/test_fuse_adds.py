"""Adds fused into convolutions: the same meaning and hash, a smaller arena; codes that others read stay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_graphs import RandomGraph, random_inputs
from qkd.graph import reference
from qkd.graph.graph import Add, Conv2d, Conv2dAdd, QuantGraph
from qkd.graph.graph_file import load_graph, save_graph
from qkd.graph.steps import steps
from qkd.passes.graph.fuse_adds import FuseAdds, fusable_adds, fuse_adds, fused_codes_have_no_reader
from qkd.passes.graph.plan_memory import PlanMemory, live_bytes_fit_no_overlap, lower_bound
from tests.support.twin import run_twin

SAME = (1, 1, 1, 1)


def block(seed: int = 0, *, swapped: bool = False) -> QuantGraph:
    """A residual block of two convolutions; `swapped` names the convolution's codes first in the add."""
    g = RandomGraph(seed, (6, 6, 3), name="block")
    x = g.conv(g.input, 8, (3, 3), padding=SAME)
    y = g.conv(g.conv(x, 8, (3, 3), padding=SAME), 8, (3, 3), padding=SAME, activation="s8")
    x = g.add(*((y, x) if swapped else (x, y)))
    return g.build(g.conv(x, 4, (1, 1)))


def all_fused(graph: QuantGraph) -> QuantGraph:
    return fuse_adds(graph, fusable_adds(graph))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_fused_graph_computes_the_same_and_keeps_its_hash(swapped: bool) -> None:
    graph = block(swapped=swapped)
    fused, inputs = all_fused(graph), random_inputs(graph, 5)
    expected, computed = reference.run(graph, inputs), reference.run(fused, inputs)
    assert [type(op) for op in fused.ops] == [Conv2d, Conv2d, Conv2dAdd, Conv2d]
    assert set(expected) - set(computed) == {"conv_2.y"}
    assert all(np.array_equal(codes, expected[name]) for name, codes in computed.items())
    assert fused.sha256() == graph.sha256()
    assert sum(fused.macs(op) for op in fused.ops) == sum(graph.macs(op) for op in graph.ops)


def test_only_the_adds_that_were_named_are_fused() -> None:
    assert FuseAdds(frozenset())(block()).ops == block().ops
    assert FuseAdds(frozenset({"add_3"}))(block()).ops[2].name == "conv_2+add_3"


def test_codes_that_someone_else_reads_keep_their_convolution_apart() -> None:
    g = RandomGraph(0, (4, 4, 3))
    x, y = g.conv(g.input, 4, (1, 1)), g.conv(g.input, 4, (1, 1))
    total = g.add(x, y)
    assert len(list(fusable_adds(g.build(total)))) == 1
    assert not list(fusable_adds(g.build(g.add(total, y))))  # y is read once more, later
    g = RandomGraph(0, (4, 4, 3))
    y = g.conv(g.input, 4, (1, 1))
    g.add(y, y)
    assert not list(fusable_adds(g.build("add_1.y")))  # twice by the add itself
    g = RandomGraph(0, (4, 4, 3))
    x, y = g.conv(g.input, 4, (1, 1)), g.conv(g.input, 4, (1, 1))
    g.add(x, y)
    assert not list(fusable_adds(g.build(y)))  # it is what the network returns


def test_an_operator_between_convolution_and_add_keeps_them_apart() -> None:
    g = RandomGraph(0, (4, 4, 4))
    y = g.conv(g.input, 4, (1, 1))
    other = g.max_pool(g.conv(g.input, 4, (1, 1)), (1, 1), (1, 1))
    assert not list(fusable_adds(g.build(g.add(y, other))))


def test_a_reader_of_codes_that_are_never_stored_is_caught() -> None:
    fused = all_fused(block())
    assert fused_codes_have_no_reader(fused) is None
    assert "conv_2.y of 'block' is read, but never stored" in str(
        fused_codes_have_no_reader(replace(fused, outputs=("conv_2.y",)))
    )


def planned(graph: QuantGraph, in_place: bool = True) -> QuantGraph:
    names = frozenset(op.name for op in graph.ops if in_place and isinstance(op, Add | Conv2dAdd))
    return PlanMemory(in_place=names)(graph)


def test_the_sum_is_written_over_the_addend_and_the_arena_loses_a_buffer() -> None:
    graph, fused = planned(block()), planned(all_fused(block()))
    assert fused.offsets["add_3.y"] == fused.offsets["conv_0.y"]
    assert "conv_2.y" not in fused.offsets
    assert (graph.arena_bytes, fused.arena_bytes) == (3 * 288, 2 * 288)
    assert fused.arena_bytes == lower_bound(fused, {}, frozenset({"conv_2+add_3"}))


def test_a_kernel_that_computes_elements_twice_gets_a_buffer_of_its_own() -> None:
    fused = planned(all_fused(block()), in_place=False)
    assert fused.arena_bytes == 3 * 288


def test_an_addend_that_the_convolution_also_reads_is_not_written_over() -> None:
    g = RandomGraph(0, (6, 6, 3))
    x = g.conv(g.input, 8, (3, 3), padding=SAME)
    x = g.add(x, g.conv(x, 8, (3, 3), padding=SAME))
    fused = planned(all_fused(g.build(g.conv(x, 4, (1, 1)))))
    assert fused.offsets["add_2.y"] != fused.offsets["conv_0.y"]
    moved = replace(fused, offsets={**fused.offsets, "add_2.y": fused.offsets["conv_0.y"]})
    assert "overlap" in str(live_bytes_fit_no_overlap(moved))


def test_a_fused_graph_comes_back_from_its_file(tmp_path: Path) -> None:
    fused = planned(all_fused(block()))
    save_graph(fused, tmp_path / "graph.safetensors")
    again = load_graph(tmp_path / "graph.safetensors")
    assert (again.ops, again.offsets) == (fused.ops, fused.offsets)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_portable_sources_add_in_place_under_both_sanitizers(tmp_path: Path, swapped: bool) -> None:
    fused = planned(all_fused(block(3, swapped=swapped)))
    inputs = random_inputs(fused, 4)
    run, expected = run_twin(tmp_path, fused, inputs), reference.run(fused, inputs)
    assert set(run.layers) == {op.output for op in steps(fused)} - set(fused.outputs)
    assert all(np.array_equal(codes, expected[name]) for name, codes in run.layers.items())
    assert np.array_equal(run.output, expected[fused.outputs[0]])
