"""Proof that a device computes what the reference means: every element of every layer, tolerance 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qkd.errors import InvariantError
from qkd.graph import reference
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.proof.device_run import Codes, DeviceRun

if TYPE_CHECKING:
    from qkd.lower.lower import Library

BATCH_BYTES = 8 * 2**20  # of layer outputs on the device; the reference takes about 30 times that in int64


class TraceRunner(Protocol):
    """What runs a library: `qkd.targets.running.runners.open_runner` yields one."""

    def __call__(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        """Run the inputs and bring back every layer's output."""
        ...


@dataclass(frozen=True)
class LayerVerification:
    """One layer over all samples: how many elements were compared, how many differ, and where the first one is."""

    value: str
    elements: int
    differing: int
    first_difference: str | None = None


@dataclass(frozen=True)
class Verification:
    """The comparison of a library on a device with the reference."""

    target: str
    graph_sha256: str
    samples: int
    layers: tuple[LayerVerification, ...]

    @property
    def elements(self) -> int:
        """Elements compared, all layers and samples."""
        return sum(layer.elements for layer in self.layers)

    @property
    def differing(self) -> int:
        """Elements that differ; anything but 0 is a defect."""
        return sum(layer.differing for layer in self.layers)

    @property
    def first_difference(self) -> str | None:
        """Where the first layer that differs does so first: usually the layer to look at."""
        return next((layer.first_difference for layer in self.layers if layer.first_difference), None)


def verify(
    library: Library, inputs: NDArray[np.int8], run: TraceRunner, advance: Callable[[int], object] | None = None
) -> Verification:
    """Run a library on a device and compare every layer's output with the reference.

    Samples go through in batches, so memory stays bounded whatever their number.

    Parameters
    ----------
    library : Library
        Lowered for the device that `run` runs on.
    inputs : int8 array of shape (N, *input shape without its leading 1)
        Samples as codes.
    run : TraceRunner
        Runs the library.
    advance : callable, optional
        Called with the number of samples done, after each batch.

    Returns
    -------
    Verification
        One entry a layer, in execution order.

    Raises
    ------
    InvariantError
        When the device brings back another set of layers than the graph has.
    ToolError
        When the device fails.
    """
    graph = library.graph
    names = compared_values(graph)
    size = max(1, BATCH_BYTES // sum(graph.values[name].buffer_bytes for name in names))
    layers = tuple(LayerVerification(name, 0, 0) for name in names)
    for start in range(0, len(inputs), size):
        batch = inputs[start : start + size]
        computed, meant = device_values(graph, run(batch, trace=True)), reference.run(graph, batch)
        layers = tuple(compare(layer, computed[layer.value], meant[layer.value], start) for layer in layers)
        if advance is not None:
            advance(len(batch))
    return Verification(library.target.name, graph.sha256(), len(inputs), layers)


def compared_values(graph: QuantGraph) -> tuple[str, ...]:
    """The output of every layer, and what the model returns."""
    layers = [op.output for op in steps(graph)]
    return tuple(dict.fromkeys([*layers, *graph.outputs]))


def device_values(graph: QuantGraph, run: DeviceRun) -> dict[str, Codes]:
    """Each compared value as the device computed it; the graph's output is what the caller got."""
    output = graph.values[graph.outputs[0]]
    returned = run.outputs.reshape(len(run.outputs), *output.shape[1:])
    values = {**(run.layers or {}), output.name: returned}
    if set(values) != set(compared_values(graph)):
        raise InvariantError(f"the trace of {graph.name!r} holds {sorted(values)}; it has to hold every layer's output")
    return values


def compare(so_far: LayerVerification, computed: Codes, meant: Codes, first_sample: int) -> LayerVerification:
    """Add one batch, which starts at sample `first_sample`, to the comparison of a layer."""
    if computed.shape != meant.shape or computed.dtype != meant.dtype:
        raise InvariantError(
            f"{so_far.value!r} came back as {computed.dtype} {computed.shape}, not {meant.dtype} {meant.shape}"
        )
    wrong = computed != meant
    differing = int(np.count_nonzero(wrong))
    where = so_far.first_difference
    if differing and where is None:
        sample, *index = (int(i) for i in np.argwhere(wrong)[0])
        got, want = computed[(sample, *index)], meant[(sample, *index)]
        where = f"{so_far.value}{index} of sample {first_sample + sample}: device {got}, reference {want}"
    return replace(
        so_far,
        elements=so_far.elements + computed.size,
        differing=so_far.differing + differing,
        first_difference=where,
    )
