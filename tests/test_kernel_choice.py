"""The choice of kernels: one for each operator in order, within the scratch that is allowed."""

from typing import get_args

import pytest

from qkd.errors import DoesNotFitError, InvariantError
from qkd.graph import Reshape
from qkd.target import InstructionSet
from qkd.targets import load_target, target_names
from qkd.targets.kernels import FAMILIES, choose_kernels
from qkd.targets.kernels.generic_cost import candidates
from tests.strategies import residual_graph


def test_every_instruction_set_has_families_and_the_generic_one_is_last() -> None:
    assert set(FAMILIES) == set(get_args(InstructionSet))
    assert all(families[-1] is candidates for families in FAMILIES.values())


@pytest.mark.parametrize("name", target_names())
def test_every_operator_but_a_reshape_gets_a_kernel_in_order(name: str) -> None:
    graph = residual_graph()
    wanted = [op.name for op in graph.ops if not isinstance(op, Reshape)]
    assert [kernel.op for kernel in choose_kernels(graph, load_target(name))] == wanted


def test_a_cap_below_every_kernels_scratch_is_refused_with_the_smallest_that_would_do() -> None:
    with pytest.raises(DoesNotFitError, match=r"'conv_0' of 'random' needs at least 27 bytes of scratch on host"):
        choose_kernels(residual_graph(), load_target("host"), scratch_cap_bytes=26)


def test_a_reshape_has_no_kernel() -> None:
    graph = residual_graph()
    reshape = next(op for op in graph.ops if isinstance(op, Reshape))
    with pytest.raises(InvariantError, match="has no kernel"):
        list(candidates(graph, reshape, load_target("host")))
