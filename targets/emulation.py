"""Run a linked program in its emulator: inputs and outputs as files, instructions by the counting plugin."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkd.device_run import Codes, DeviceRun
from qkd.errors import InvariantError, ToolError
from qkd.files import write_atomic
from qkd.graph import QuantGraph
from qkd.targets.counting import Counts, plugin, read_counts, symbol_address
from qkd.targets.image import build_image, traced_values
from qkd.targets.toolchain import ending, run_tool, tool_versions

if TYPE_CHECKING:
    from qkd.lower import Library

RUN_LIMIT_S = 900.0
FILE_BYTES = 64 * 2**20  # of inputs and results of one start of the emulator; more inputs take more starts

# The jobs and statuses of runtime/harness.c and runtime/host.h.
JOB_RUN, JOB_TRACE, JOB_PROFILE = range(3)
STATUS_BROKEN_PROMISE = 70


class EmulatedModel:
    """A library linked with the harness, ready to run in its target's emulator."""

    def __init__(self, library: Library, folder: Path, limit_s: float = RUN_LIMIT_S) -> None:
        """Build the image in `folder`, which must stay until the model is no longer used."""
        self.library, self.graph, self.folder, self.limit_s = library, library.graph, folder, limit_s
        self.image = build_image(library, folder)

    def run(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        """Run every input; `trace` brings back what each layer computed."""
        runs = [self._run_batch(batch, trace) for batch in self._batches(inputs, trace)]
        names = traced_values(self.graph)
        return DeviceRun(
            outputs=np.concatenate([run.outputs for run in runs]),
            layers={n: np.concatenate([run.layers[n] for run in runs if run.layers]) for n in names} if trace else None,
            stack_bytes=max(run.stack_bytes or 0 for run in runs),
            tool_versions=tool_versions(self.library.target),
        )

    def _batches(self, inputs: NDArray[np.int8], trace: bool) -> list[NDArray[np.int8]]:
        names = (*self.graph.inputs, *self.graph.outputs, *(traced_values(self.graph) if trace else ()))
        size = max(1, FILE_BYTES // sum(self.graph.values[name].buffer_bytes for name in names))
        return [inputs[start : start + size] for start in range(0, len(inputs), size)]

    def _run_batch(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        self._emulate(JOB_TRACE if trace else JOB_RUN, inputs)
        output = self.graph.values[self.graph.outputs[0]]
        outputs = self._read("outputs.bin", output.dtype).reshape(len(inputs), output.elements)
        layers = split_layers(self.graph, self._read("layers.bin", "int8"), len(inputs)) if trace else None
        return DeviceRun(outputs, layers, stack_bytes=int(self._read("stack.bin", "uint32")[0]))

    def count(self, inputs: NDArray[np.int8]) -> Counts:
        """Count the instructions of one inference of the first input, as a whole and by layer."""
        counts = self.folder / "counts.txt"
        arguments = f"{plugin()},out={counts.name},mark={symbol_address(self.image, 'harness_mark'):#x}"
        self._emulate(JOB_PROFILE, inputs[:1], ("-plugin", arguments))
        return read_counts(self.graph, counts)

    def _emulate(self, job: int, inputs: NDArray[np.int8], options: tuple[str, ...] = ()) -> None:
        write_atomic(self.folder / "inputs.bin", struct.pack("<II", job, len(inputs)) + inputs.tobytes())
        emulator, *arguments = self.library.target.emulator
        command = (emulator, *options, *arguments, self.image.name)
        task = f"{self.library.name!r} on {self.library.target.name}"
        done = run_tool(command, task, self.folder, self.limit_s)
        if done.returncode == STATUS_BROKEN_PROMISE:
            raise InvariantError(f"{task}: {done.stderr.strip()}")
        if done.returncode != 0:
            raise ToolError(f"{task} failed: {ending(done.returncode)}", command, done.stdout + done.stderr)

    def _read(self, name: str, dtype: str) -> NDArray[Any]:
        return np.fromfile(self.folder / name, np.dtype(dtype).newbyteorder("<"))


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
