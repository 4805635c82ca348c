"""The ladder's lower rungs: TVM's code equals the reference on the host, AArch64 and each Cortex-M, tolerance 0."""

import pytest

from benchmarks.random_graphs import random_inputs, residual_graph
from qkd.graph.graph import QuantGraph
from qkd.lower.lower import Library, lower
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.proof.profiling import profile
from qkd.proof.verification import verify
from qkd.target import Target
from qkd.targets import target_names
from qkd.targets.kernels import choose_kernels
from qkd.targets.running.runners import open_runner
from tests.support.stub_library import device_or_skip

pytestmark = pytest.mark.device


def lowered(graph: QuantGraph, target: Target) -> Library:
    """Choose kernels, plan the memory and lower."""
    kernels = choose_kernels(graph, target)
    scratch_bytes = {kernel.op: kernel.scratch_bytes for kernel in kernels}
    in_place = frozenset(kernel.op for kernel in kernels if kernel.in_place)
    return lower(PlanMemory(scratch_bytes, in_place)(graph), target, kernels)


@pytest.mark.parametrize("name", target_names())
@pytest.mark.parametrize(("weight", "activation"), [("4", "u8"), ("ternary", "u4")])
def test_every_layer_of_a_lowered_network_equals_the_reference(name: str, weight: str, activation: str) -> None:
    library = lowered(residual_graph(7, weight, activation), device_or_skip(name))
    with open_runner(library) as runner:
        proof = verify(library, random_inputs(library.graph, 20), runner)
    assert proof.elements > 30_000
    assert proof.differing == 0, proof.first_difference


@pytest.mark.parametrize("name", ["host", "cortex_a76", "cortex_m55"])
def test_a_profile_of_a_lowered_network_holds_what_can_be_measured_there(name: str) -> None:
    library = lowered(residual_graph(7), device_or_skip(name))
    with open_runner(library) as runner:
        measured = profile(library, runner(random_inputs(library.graph, 1), profile=True))
    counted = [layer.instructions for layer in measured.layers]
    assert measured.flash_bytes == library.text_bytes + library.rodata_bytes
    assert measured.arena_bytes == library.graph.arena_bytes
    if name == "host":
        assert counted == [None] * len(counted)
    else:
        assert measured.instructions is not None
        layers = sum(count or 0 for count in counted)
        assert layers <= measured.instructions < layers + 30 * len(counted)
