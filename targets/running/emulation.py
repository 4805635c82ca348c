"""Run a linked program in its emulator: inputs and outputs as files, instructions by the counting plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkd.base.files import write_atomic
from qkd.errors import InvariantError, ToolError
from qkd.proof.device_run import DeviceRun
from qkd.targets.running.counting import Counts, plugin, read_counts, symbol_address
from qkd.targets.running.harness import (
    JOB_PROFILE,
    STATUS_BROKEN_PROMISE,
    HarnessModel,
    ResultFile,
    job_file,
    result_sizes,
)
from qkd.targets.running.image import build_image
from qkd.targets.running.toolchain import ending, run_tool, tool_versions

if TYPE_CHECKING:
    from qkd.lower.lower import Library

RUN_LIMIT_S = 900.0


class EmulatedModel(HarnessModel):
    """A library linked with the harness, ready to run in its target's emulator."""

    def __init__(self, library: Library, folder: Path, limit_s: float = RUN_LIMIT_S) -> None:
        """Build the image in `folder`, which must stay until the model is no longer used."""
        super().__init__(library)
        self.folder, self.limit_s = folder, limit_s
        self.image = build_image(library, folder)

    def do(self, job: int, inputs: NDArray[np.int8], count: int) -> Mapping[ResultFile, bytes]:
        """Do one job of the harness and return its result files."""
        self._emulate(job, inputs, count)
        return {name: (self.folder / name).read_bytes() for name in result_sizes(self.graph, job, count)}

    def measure(self, inputs: NDArray[np.int8], run: DeviceRun) -> DeviceRun:
        """Count the instructions of one inference of the first input."""
        counts = self.count(inputs)
        return replace(
            run,
            instructions=counts.instructions,
            layer_instructions=counts.layer_instructions,
            executed=counts.executed,
            image=self.image.read_bytes(),
        )

    def tool_versions(self) -> dict[str, str]:
        """Of compiler and emulator."""
        return tool_versions(self.library.target)

    def count(self, inputs: NDArray[np.int8]) -> Counts:
        """Count the instructions of one inference of the first input, as a whole and by layer."""
        counts = self.folder / "counts.txt"
        arguments = f"{plugin()},out={counts.name},mark={symbol_address(self.image, 'harness_mark'):#x}"
        self._emulate(JOB_PROFILE, inputs[:1], 1, ("-plugin", arguments))
        return read_counts(self.graph, counts)

    def _emulate(self, job: int, inputs: NDArray[np.int8], count: int, options: tuple[str, ...] = ()) -> None:
        write_atomic(self.folder / "inputs.bin", job_file(job, inputs, count))
        emulator, *arguments = self.library.target.emulator
        command = (emulator, *options, *arguments, self.image.name)
        task = f"{self.library.name!r} on {self.library.target.name}"
        done = run_tool(command, task, self.folder, self.limit_s)
        if done.returncode == STATUS_BROKEN_PROMISE:
            raise InvariantError(f"{task}: {done.stderr.strip()}")
        if done.returncode != 0:
            raise ToolError(f"{task} failed: {ending(done.returncode)}", command, done.stdout + done.stderr)
