"""Verification: every element of every layer counts, and the first difference is named."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.random_graphs import random_inputs, residual_graph
from qkd.errors import InvariantError
from qkd.graph import reference
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.proof import verification
from qkd.proof.device_run import DeviceRun
from qkd.proof.verification import compared_values, verify

if TYPE_CHECKING:
    from qkd.lower.lower import Library

GRAPH = residual_graph()
LIBRARY = cast("Library", SimpleNamespace(graph=GRAPH, target=SimpleNamespace(name="paper"), name="random"))


class PaperDevice:
    """Computes with the reference, but for elements that it gets wrong: (value, sample over all calls, flat index)."""

    def __init__(self, graph: QuantGraph, *faults: tuple[str, int, int]) -> None:
        self.graph, self.faults, self.done, self.batches = graph, faults, 0, 0

    def __call__(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        assert trace
        values = {name: codes.copy() for name, codes in reference.run(self.graph, inputs).items()}
        for name, sample, index in self.faults:
            if self.done <= sample < self.done + len(inputs):
                values[name][sample - self.done].reshape(-1)[index] ^= 1
        self.done, self.batches = self.done + len(inputs), self.batches + 1
        names = [op.output for op in steps(self.graph)]
        return DeviceRun(values[self.graph.outputs[0]].reshape(len(inputs), -1), {n: values[n] for n in names})


def test_a_device_that_computes_what_is_meant_differs_nowhere() -> None:
    proof = verify(LIBRARY, random_inputs(GRAPH, 6), PaperDevice(GRAPH))
    assert proof.differing == 0
    assert proof.first_difference is None
    assert proof.elements == 6 * sum(GRAPH.values[name].elements for name in compared_values(GRAPH))
    assert proof.graph_sha256 == GRAPH.sha256()


def test_every_layer_but_reshapes_is_compared_in_execution_order() -> None:
    proof = verify(LIBRARY, random_inputs(GRAPH, 1), PaperDevice(GRAPH))
    assert [layer.value for layer in proof.layers] == [op.output for op in steps(GRAPH)]


@pytest.mark.parametrize("name", compared_values(GRAPH))
def test_a_single_wrong_element_is_found_in_any_layer(name: str) -> None:
    last = GRAPH.values[name].elements - 1
    proof = verify(LIBRARY, random_inputs(GRAPH, 4), PaperDevice(GRAPH, (name, 3, last)))
    assert proof.differing == 1
    assert proof.first_difference is not None
    assert proof.first_difference.startswith(f"{name}[")
    assert "of sample 3: device" in proof.first_difference


def test_the_first_difference_is_that_of_the_earliest_layer() -> None:
    early, late = compared_values(GRAPH)[0], compared_values(GRAPH)[-1]
    proof = verify(LIBRARY, random_inputs(GRAPH, 3), PaperDevice(GRAPH, (late, 0, 0), (early, 2, 7)))
    assert proof.differing == 2
    assert proof.first_difference is not None
    assert proof.first_difference.startswith(early)


def test_many_samples_go_through_in_batches_and_keep_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "BATCH_BYTES", 5000)  # two samples
    device, done = PaperDevice(GRAPH, (compared_values(GRAPH)[0], 8, 0)), []
    proof = verify(LIBRARY, random_inputs(GRAPH, 9), device, advance=done.append)
    assert device.batches == 5
    assert done == [2, 2, 2, 2, 1]
    assert proof.samples == 9
    assert proof.elements == 9 * sum(GRAPH.values[name].elements for name in compared_values(GRAPH))
    assert proof.first_difference is not None
    assert "of sample 8:" in proof.first_difference


def test_a_trace_that_lacks_a_layer_proves_nothing() -> None:
    class Forgetful(PaperDevice):
        def __call__(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
            return DeviceRun(super().__call__(inputs, trace).outputs)

    with pytest.raises(InvariantError, match="has to hold every layer's output"):
        verify(LIBRARY, random_inputs(GRAPH, 1), Forgetful(GRAPH))


def test_a_layer_of_another_type_proves_nothing() -> None:
    class Widening(PaperDevice):
        def __call__(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
            run = super().__call__(inputs, trace)
            return DeviceRun(run.outputs, {n: codes.astype(np.int32) for n, codes in (run.layers or {}).items()})

    with pytest.raises(InvariantError, match=r"came back as int32 .*, not int8"):
        verify(LIBRARY, random_inputs(GRAPH, 1), Widening(GRAPH))
