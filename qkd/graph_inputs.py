"""Graphs with inputs to run them on: a finished run's with its test images, or one file's with random codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkd.data.datasets import load_data
from qkd.graph.graph import QuantGraph
from qkd.graph.graph_file import load_graph
from qkd.recipe import BudgetSpec
from qkd.run_folder import graph_path, read_run_recipe

SEED = 0
"""Of random codes; the same on every run."""


def graphs_with_inputs(source: Path, count: int) -> Iterator[tuple[QuantGraph, NDArray[np.int8], BudgetSpec]]:
    """Read what is to be measured.

    Parameters
    ----------
    source : Path
        A run's folder, or a graph file.
    count : int
        Inputs wanted; of a run, no more than it has test images.

    Yields
    ------
    QuantGraph, int8 array of shape (N, *input shape without its leading 1), BudgetSpec
        Each format of a run, under the recipe's budget; a graph alone has none.

    Raises
    ------
    RecipeError
        When there is neither a run nor a graph, or its data cannot be read.
    """
    if source.is_dir():
        recipe = read_run_recipe(source)
        codes = load_data(recipe.data, source / "data").test.codes()[:count]
        for bits in recipe.bits:
            yield load_graph(graph_path(source, bits)), codes, recipe.budget
    else:
        graph = load_graph(source)
        yield graph, random_codes(graph, count), BudgetSpec()


def random_codes(graph: QuantGraph, count: int) -> NDArray[np.int8]:
    """Codes over the whole range of the graph's input, shape (count, *input shape without its leading 1)."""
    entry = graph.values[graph.inputs[0]]
    codes = np.random.default_rng(SEED).integers(entry.qmin, entry.qmax + 1, (count, *entry.shape[1:]))
    return codes.astype(np.int8)
