"""The harness's jobs: how inputs go to runtime/harness.c and what comes back, whatever it runs on."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import QuantGraph
from qkd.proof.device_run import Codes, DeviceRun
from qkd.targets.running.image import traced_values

if TYPE_CHECKING:
    from qkd.lower.lower import Library

FILE_BYTES = 64 * 2**20  # of inputs and results of one job; more inputs take more jobs

# The jobs and statuses of runtime/harness.c and runtime/host.h.
JOB_RUN, JOB_TRACE, JOB_PROFILE = range(3)
STATUS_BROKEN_PROMISE = 70

ResultFile = Literal["outputs.bin", "layers.bin", "stack.bin", "marks.bin"]


class HarnessModel(ABC):
    """A library linked with the harness; what runs both is the business of a subclass."""

    def __init__(self, library: Library) -> None:
        """Keep the library; a subclass links it."""
        self.library, self.graph = library, library.graph

    @abstractmethod
    def do(self, job: int, inputs: NDArray[np.int8], count: int) -> Mapping[ResultFile, bytes]:
        """Do one job of the harness and return its result files; raise ToolError or InvariantError where it fails."""

    @abstractmethod
    def measure(self, inputs: NDArray[np.int8], run: DeviceRun) -> DeviceRun:
        """Measure one inference of the first input and add what it cost to `run`."""

    @abstractmethod
    def tool_versions(self) -> dict[str, str]:
        """The versions that a run depends on, by tool."""

    def run(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        """Run every input; `trace` brings back what each layer computed."""
        runs = [self._run_batch(batch, trace) for batch in self._batches(inputs, trace)]
        names = traced_values(self.graph)
        return DeviceRun(
            outputs=np.concatenate([run.outputs for run in runs]),
            layers={n: np.concatenate([run.layers[n] for run in runs if run.layers]) for n in names} if trace else None,
            stack_bytes=max(run.stack_bytes or 0 for run in runs),
            tool_versions=self.tool_versions(),
        )

    def _batches(self, inputs: NDArray[np.int8], trace: bool) -> list[NDArray[np.int8]]:
        names = (*self.graph.inputs, *self.graph.outputs, *(traced_values(self.graph) if trace else ()))
        size = max(1, FILE_BYTES // sum(self.graph.values[name].buffer_bytes for name in names))
        return [inputs[start : start + size] for start in range(0, len(inputs), size)]

    def _run_batch(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        files = self.do(JOB_TRACE if trace else JOB_RUN, inputs, len(inputs))
        output = self.graph.values[self.graph.outputs[0]]
        outputs: NDArray[Any] = np.frombuffer(files["outputs.bin"], np.dtype(output.dtype).newbyteorder("<"))
        layers = split_layers(self.graph, np.frombuffer(files["layers.bin"], np.int8), len(inputs)) if trace else None
        (stack_bytes,) = struct.unpack("<I", files["stack.bin"])
        return DeviceRun(outputs.reshape(len(inputs), output.elements), layers, stack_bytes=stack_bytes)


def job_file(job: int, inputs: NDArray[np.int8], count: int) -> bytes:
    """What the harness reads: the job, a count and the inputs."""
    return struct.pack("<II", job, count) + inputs.tobytes()


def result_sizes(graph: QuantGraph, job: int, count: int) -> dict[ResultFile, int]:
    """Bytes of each file that a job writes."""
    layers = traced_values(graph)
    if job == JOB_PROFILE:
        return {"marks.bin": 8 * count * (4 + 2 * len(layers))}
    traced = sum(graph.values[name].buffer_bytes for name in layers) if job == JOB_TRACE else 0
    outputs = graph.values[graph.outputs[0]].buffer_bytes
    return {"outputs.bin": count * outputs, "layers.bin": count * traced, "stack.bin": 4}


def split_layers(graph: QuantGraph, written: NDArray[np.int8], count: int) -> dict[str, Codes]:
    """Cut a trace of `count` inputs, each the layers' outputs one after the other, into one array a layer."""
    rows = written.reshape(count, -1)
    layers, start = {}, 0
    for name in traced_values(graph):
        value = graph.values[name]
        part = np.ascontiguousarray(rows[:, start : start + value.buffer_bytes])
        layers[name] = part.view(value.dtype).reshape(count, *value.shape[1:])
        start += value.buffer_bytes
    return layers
