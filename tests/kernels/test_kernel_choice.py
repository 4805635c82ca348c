"""The choice of kernels: one for each operator in order, within the scratch that is allowed."""

from typing import get_args

import pytest

from benchmarks.random_graphs import residual_graph
from qkd.errors import DoesNotFitError, InvariantError
from qkd.graph.graph import Reshape
from qkd.graph.steps import steps
from qkd.target import InstructionSet
from qkd.targets import load_target, target_names
from qkd.targets.kernels import FAMILIES, choose_kernels
from qkd.targets.kernels.candidate import Candidate, Refused
from qkd.targets.kernels.choice import choose, flash_byte_cycles
from qkd.targets.kernels.generic_cost import candidates
from qkd.targets.kernels.rates import Rate, Work


def test_every_instruction_set_has_families_and_the_generic_one_is_last() -> None:
    assert set(FAMILIES) == set(get_args(InstructionSet))
    assert all(families[-1] is candidates for families in FAMILIES.values())


@pytest.mark.parametrize("name", target_names())
def test_every_operator_but_a_reshape_gets_a_kernel_in_order(name: str) -> None:
    graph = residual_graph()
    wanted = [op.name for op in steps(graph)]
    assert [kernel.op for kernel in choose_kernels(graph, load_target(name))] == wanted


def test_a_cap_below_every_kernels_scratch_is_refused_with_the_smallest_that_would_do() -> None:
    with pytest.raises(DoesNotFitError, match=r"'conv_0' of 'random' needs at least 27 bytes of scratch on host"):
        choose_kernels(residual_graph(), load_target("host"), scratch_cap_bytes=26)


M4, A53 = load_target("cortex_m4"), load_target("cortex_a53")


def candidate(variant: str, cycles: int, flash_bytes: int = 0, scratch_bytes: int = 0) -> Candidate:
    """A candidate that cannot be made: the choice only compares numbers."""
    return Candidate(variant, cycles, flash_bytes, scratch_bytes, lambda: pytest.fail("made though only compared"))


def test_the_cheapest_is_first_and_of_a_variant_only_its_cheapest_form_stays() -> None:
    choice = choose("op", [candidate("a", 30), candidate("b", 20), candidate("b", 40), candidate("c", 20)], 0.0, None)
    assert [(c.variant, c.cycles) for c in choice.allowed] == [("b", 20), ("c", 20), ("a", 30)]
    assert choice.costs == "estimated at 20 cycles and 0 bytes of flash; next c: 20 cycles and 0 bytes of flash"


def test_a_byte_of_flash_is_worth_as_much_of_a_networks_cycles_as_of_its_flash_but_nothing_on_linux() -> None:
    offered = [(candidate("a", 900, 200), candidate("b", 1000, 100)), (candidate("c", 100, 100), Refused("d", "x"))]
    assert flash_byte_cycles(offered, M4) == (900 + 100) / (100 + 100)
    assert flash_byte_cycles(offered, A53) == 0
    assert flash_byte_cycles([(candidate("add", 5),)], M4) == 0
    assert choose("op", offered[0], 1.1, None).allowed[0].variant == "b"
    assert choose("op", offered[0], 0.9, None).allowed[0].variant == "a"


def test_what_is_refused_says_why_few_lines_at_most() -> None:
    offered = [
        candidate("big", 1, scratch_bytes=2000),
        candidate("small", 2),
        *[Refused("r", str(i)) for i in range(5)],
    ]
    choice = choose("op", offered, 0.0, 1000)
    assert [c.variant for c in choice.allowed] == ["small"]
    assert list(choice.lines()) == [
        "not big: 2,000 bytes of scratch, 1,000 are allowed", "not r: 0", "not r: 1", "not r: 2", "not 2 more",
    ]  # fmt: skip


def test_a_rate_counts_what_it_names_and_parts_by_the_number_in_the_variants_name() -> None:
    work = Work(macs=1000, outputs=10, inputs=100, weights=50, pixels=5)
    assert Rate(mac=0.5, output=2, input=0.1, weight=1, call=7).cycles(work, "any") == 500 + 20 + 10 + 50 + 7
    assert Rate(mac_over_n=1, output_times_n=3).cycles(work, "dot_lanes_4") == 250 + 120


def test_a_reshape_has_no_kernel() -> None:
    graph = residual_graph()
    reshape = next(op for op in graph.ops if isinstance(op, Reshape))
    with pytest.raises(InvariantError, match="has no kernel"):
        list(candidates(graph, reshape, load_target("host")))
