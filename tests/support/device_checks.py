"""Comparison of a device with the reference, as tests of kernels want it."""

from collections.abc import Sequence

import numpy as np

from benchmarks.lowering import kernels_of, lowered
from benchmarks.random_graphs import random_inputs
from qkd.graph.graph import Op, QuantGraph
from qkd.proof.verification import verify
from qkd.targets import load_target
from qkd.targets.running.runners import open_runner
from qkd.tir.kernel import Kernel
from tests.support.stub_library import device_or_skip


def assert_device_equals_reference(graph: QuantGraph, core: str, kernels: Sequence[Kernel] | None = None) -> None:
    """Random inputs and both corners, every element of every layer; without `kernels`, those of the device's choice."""
    library = lowered(graph, device_or_skip(core), kernels)
    entry = graph.values[graph.inputs[0]]
    corners = [np.full((1, *entry.shape[1:]), code, np.int8) for code in (entry.qmin, entry.qmax)]
    with open_runner(library) as runner:
        proof = verify(library, np.concatenate([*corners, random_inputs(graph, 2)]), runner)
    assert proof.differing == 0, proof.first_difference


def every_kernel(graph: QuantGraph, op: Op, core: str) -> list[Kernel]:
    """All kernels of an operator on a core, the cheapest first; the generic one only where there is no other."""
    kernels = kernels_of(graph, op, load_target(core))
    return [kernel for kernel in kernels if not kernel.variant.startswith("generic")] or kernels
