"""Run a library on a device: in process on the host, in an emulator elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkd.device_run import DeviceRun
from qkd.targets.emulation import RUN_LIMIT_S, EmulatedModel
from qkd.targets.host import HostModel
from qkd.targets.toolchain import check_tools, working_folder

if TYPE_CHECKING:
    from qkd.lower import Library


class Runner:
    """A library that is linked and ready to run; `open_runner` makes one."""

    def __init__(self, library: Library, model: HostModel | EmulatedModel) -> None:
        """Wrap a linked model."""
        self.library, self._model = library, model

    def __call__(self, inputs: NDArray[np.int8], trace: bool = False, profile: bool = False) -> DeviceRun:
        """Run the library.

        Parameters
        ----------
        inputs : int8 array of shape (N, *input shape without its leading 1)
            At least one sample, as codes.
        trace : bool
            Bring back every layer's output.
        profile : bool
            Count the instructions of one more inference of the first input; the host cannot count and leaves None.

        Returns
        -------
        DeviceRun
            In the order of `inputs`.

        Raises
        ------
        ToolError
            When the emulator fails, hangs, or reports a fault of the core.
        InvariantError
            When the library breaks what its header promises.
        ValueError
            When shape or dtype of `inputs` are not the graph's.
        """
        entry = self.library.graph.values[self.library.graph.inputs[0]]
        if inputs.dtype != np.int8 or inputs.shape[1:] != entry.shape[1:] or len(inputs) == 0:
            expected = f"int8 of shape (N, *{entry.shape[1:]}) with N of at least 1"
            raise ValueError(f"inputs are {inputs.dtype} {inputs.shape}; {self.library.name!r} takes {expected}")
        inputs = np.ascontiguousarray(inputs)
        run = self._model.run(inputs, trace)
        if not profile or isinstance(self._model, HostModel):
            return run
        counts = self._model.count(inputs)
        return replace(
            run,
            instructions=counts.instructions,
            layer_instructions=counts.layer_instructions,
            executed=counts.executed,
            image=self._model.image.read_bytes(),
        )


@contextmanager
def open_runner(library: Library, limit_s: float = RUN_LIMIT_S) -> Iterator[Runner]:
    """Link a library for its target and keep it ready for the time of a `with` block.

    `limit_s` bounds each start of an emulator. Raises ToolError where a compiler or emulator is missing.
    """
    check_tools(library.target)
    with working_folder() as folder:
        host = library.target.kind == "host"
        yield Runner(library, HostModel(library, folder) if host else EmulatedModel(library, folder, limit_s))


def run_on(
    library: Library,
    inputs: NDArray[np.int8],
    trace: bool = False,
    profile: bool = False,
    limit_s: float = RUN_LIMIT_S,
) -> DeviceRun:
    """Link a library, run it once on all inputs and return what came back; see `Runner.__call__`."""
    with open_runner(library, limit_s) as runner:
        return runner(inputs, trace, profile)
