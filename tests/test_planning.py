"""Kernels and arena of a graph within a device's budgets: what is too large is computed with less scratch."""

import pytest

from benchmarks.random_graphs import RandomGraph
from qkd.errors import DoesNotFitError
from qkd.recipe import BudgetSpec
from qkd.targets import load_target
from qkd.targets.planning import plan
from tests.support.codebooks import layers


@pytest.mark.parametrize("device", ["cortex_m4", "cortex_m55"])
def test_where_the_arena_is_too_small_kernels_take_less_scratch(device: str) -> None:
    graph, target = layers(channels=32), load_target(device)
    fastest = plan(graph, target, BudgetSpec())
    assert fastest.kernels[0].variant.startswith("codebook_")
    assert fastest.graph.arena_bytes is not None
    smaller = plan(graph, target, BudgetSpec(arena_bytes=fastest.graph.arena_bytes - 1))
    assert smaller.graph.arena_bytes is not None
    assert smaller.graph.arena_bytes < fastest.graph.arena_bytes
    assert smaller.choices[0].allowed[0].cycles > fastest.choices[0].allowed[0].cycles
    assert "bytes of scratch" in "".join(smaller.choices[0].lines())


def test_what_fits_nowhere_is_said_of_the_fastest_kernels() -> None:
    g = RandomGraph(0, (8, 8, 16))
    graph, target = g.build(g.conv(g.conv(g.input, 16, (3, 3)), 8, (3, 3))), load_target("cortex_m4")
    needed = plan(graph, target, BudgetSpec()).graph.arena_bytes
    with pytest.raises(DoesNotFitError, match=f"the most of {needed:,} arena bytes on cortex_m4; 64 are available"):
        plan(graph, target, BudgetSpec(arena_bytes=64))


def test_a_cap_of_the_recipe_is_kept() -> None:
    graph, target = layers(channels=32), load_target("cortex_m4")
    planned = plan(graph, target, BudgetSpec(scratch_bytes=2048))
    assert max(kernel.scratch_bytes for kernel in planned.kernels) <= 2048
    with pytest.raises(DoesNotFitError, match="16 are allowed"):
        plan(graph, target, BudgetSpec(scratch_bytes=16))
