"""The C header: what it says, that compilers take it, and which graphs it refuses."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.random_graphs import RandomGraph, residual_graph
from qkd.bundle.header import c_header, simple_ratio
from qkd.errors import InvariantError, RecipeError, UnsupportedOpError
from qkd.graph.graph import QuantGraph
from qkd.passes.graph.plan_memory import PlanMemory
from tests.support.golden import ANOTHER


def planned_graph() -> QuantGraph:
    return PlanMemory()(residual_graph(name="golden"))


def test_the_header_is_the_golden_one(golden: Callable[[str, str], str]) -> None:
    header = c_header("golden", planned_graph(), 512, 9000)
    assert header == golden("golden.h", header), f"golden.h is {ANOTHER}"


@pytest.mark.parametrize("compiler", [["gcc", "-std=c99"], ["g++", "-std=c++11"]])
def test_c_and_cplusplus_take_it(compiler: list[str], tmp_path: Path) -> None:
    header = tmp_path / "golden.h"
    header.write_text(c_header("golden", planned_graph(), 512, 9000))
    source = tmp_path / ("use.c" if compiler[0] == "gcc" else "use.cpp")
    source.write_text('#include "golden.h"\nunsigned char arena[GOLDEN_ARENA_BYTES];\n')
    subprocess.run([*compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", source], check=True)


def test_sizes_that_were_not_measured_have_no_macro() -> None:
    text = c_header("golden", planned_graph(), None, None)
    assert "#define GOLDEN_STACK_BYTES" not in text
    assert "#define GOLDEN_FLASH_BYTES" not in text


def test_the_arena_is_never_an_empty_array() -> None:
    g = RandomGraph(0, (2, 2, 3), name="single")
    graph = PlanMemory()(g.build(g.fully_connected(g.flatten(g.input), 3)))
    assert "#define SINGLE_ARENA_BYTES 16\n" in c_header("single", graph, None, None)


def test_a_scale_is_a_ratio_only_where_it_is_exactly_one() -> None:
    assert str(simple_ratio(2 / 255)) == "2/255"
    assert simple_ratio(0.017345123) is None


def test_a_name_that_c_cannot_spell_is_refused() -> None:
    with pytest.raises(RecipeError, match="'W4-A8' cannot be a C prefix"):
        c_header("W4-A8", planned_graph(), None, None)


def test_a_graph_without_a_memory_plan_is_refused() -> None:
    with pytest.raises(InvariantError, match="no memory plan"):
        c_header("random", residual_graph(), None, None)


def test_a_graph_with_two_outputs_is_refused() -> None:
    graph = planned_graph()
    two = QuantGraph("two", graph.values, graph.ops, graph.inputs, ("conv_0.y", *graph.outputs), graph.offsets, {}, 64)
    with pytest.raises(UnsupportedOpError, match="1 inputs and 2 outputs"):
        c_header("two", two, None, None)


def test_a_graph_that_only_reshapes_is_refused() -> None:
    g = RandomGraph(0, (2, 2, 3), name="idle")
    with pytest.raises(UnsupportedOpError, match="computes nothing"):
        c_header("idle", PlanMemory()(g.build(g.flatten(g.input))), None, None)
