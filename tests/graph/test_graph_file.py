"""Graphs on disk: what is read is what was written, and damage is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_graphs import random_inputs, residual_graph
from qkd.errors import RecipeError
from qkd.graph.graph_file import load_graph, save_graph
from qkd.graph.reference import run_in_batches


def test_a_graph_comes_back_with_the_same_hash_and_the_same_results(tmp_path: Path) -> None:
    graph = residual_graph(seed=3)
    save_graph(graph, tmp_path / "graph.safetensors")
    back = load_graph(tmp_path / "graph.safetensors")
    assert back.sha256() == graph.sha256()
    assert back.ops == graph.ops
    inputs = random_inputs(graph, 5)
    np.testing.assert_array_equal(run_in_batches(back, inputs), run_in_batches(graph, inputs))


def test_a_memory_plan_comes_back(tmp_path: Path) -> None:
    graph = residual_graph().with_plan({"conv_0.y": 16}, {"conv_0": 32}, 4096)
    save_graph(graph, tmp_path / "g")
    back = load_graph(tmp_path / "g")
    assert (dict(back.offsets), dict(back.scratch_offsets), back.arena_bytes) == (
        {"conv_0.y": 16},
        {"conv_0": 32},
        4096,
    )


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_graph(residual_graph(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    save_graph(residual_graph(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecipeError, match="damaged"):
        load_graph(path)


def test_a_changed_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "graph.safetensors"
    save_graph(residual_graph(), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="changed or damaged"):
        load_graph(path)


def test_a_missing_file_says_where_graphs_come_from(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="run folder"):
        load_graph(tmp_path / "none")


def test_the_hash_of_a_graph_covers_the_type_of_its_data() -> None:
    graph = residual_graph()
    weight = next(value for value in graph.values.values() if value.data is not None)
    assert weight.data is not None
    same_bytes = replace(weight, data=weight.data.view(np.bool_))
    assert replace(graph, values={**graph.values, weight.name: same_bytes}).sha256() != graph.sha256()


def test_the_hash_of_a_graph_covers_the_shape_of_its_data() -> None:
    graph = residual_graph()
    weight = next(value for value in graph.values.values() if value.data is not None)
    assert weight.data is not None
    flat = replace(weight, data=weight.data.reshape(-1))
    assert replace(graph, values={**graph.values, weight.name: flat}).sha256() != graph.sha256()
