"""Run a library on a device: in process on the host, in an emulator elsewhere, or on a board over TVM's RPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qkd.errors import RecipeError
from qkd.proof.device_run import DeviceRun
from qkd.target import Target
from qkd.targets.running.emulation import RUN_LIMIT_S, EmulatedModel
from qkd.targets.running.host import HostModel
from qkd.targets.running.toolchain import check_tools, working_folder

if TYPE_CHECKING:
    from qkd.lower.lower import Library
    from qkd.targets.running.rpc import BoardAddress


class Model(Protocol):
    """A linked library somewhere: in this process, in an emulator, on a board."""

    def run(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        """Run every input; `trace` brings back what each layer computed."""
        ...

    def measure(self, inputs: NDArray[np.int8], run: DeviceRun) -> DeviceRun:
        """Measure what can be measured of one inference of the first input and add it to `run`."""
        ...


class Runner:
    """A library that is linked and ready to run; `open_runner` and `open_board` make one."""

    def __init__(self, library: Library, model: Model) -> None:
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
            Measure more inferences of the first input: an emulator counts instructions, a board that is known to be
            none takes the time; the host does neither and leaves None.

        Returns
        -------
        DeviceRun
            In the order of `inputs`.

        Raises
        ------
        ToolError
            When the emulator or the board fails, hangs, or reports a fault of the core.
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
        return self._model.measure(inputs, run) if profile else run


@contextmanager
def open_runner(library: Library, limit_s: float = RUN_LIMIT_S) -> Iterator[Runner]:
    """Link a library for its target and keep it ready for the time of a `with` block.

    `limit_s` bounds each start of an emulator. Raises ToolError where a compiler or emulator is missing.
    """
    check_tools(library.target)
    with working_folder() as folder:
        host = library.target.kind == "host"
        yield Runner(library, HostModel(library, folder) if host else EmulatedModel(library, folder, limit_s))


@contextmanager
def open_board(library: Library, address: BoardAddress, limit_s: float = RUN_LIMIT_S) -> Iterator[Runner]:
    """Link a library, upload it to a board and keep the session for the time of a `with` block.

    `limit_s` bounds each call over the network. Raises ToolError where the board cannot be reached or cannot run it.
    """
    from qkd.targets.running.rpc_model import RpcModel  # TVM's RPC is loaded by those who use it

    with working_folder() as folder, RpcModel(library, address, folder, limit_s) as model:
        yield Runner(library, model)


def choose_runner(
    target: Target, kind: str, tracker: str | None, server: str | None, key: str | None
) -> Callable[[Library], AbstractContextManager[Runner]]:
    """Choose `open_runner` for kind "emulator", `open_board` for "rpc"; RecipeError where options contradict.

    `tracker` or `server` is HOST:PORT; `key` is the target's name where it is None.
    """
    places = [place for place in (tracker, server) if place]
    if kind != "rpc":
        if places or key:
            raise RecipeError("a tracker, server or key is for boards; add --runner rpc")
        return open_runner
    if len(places) != 1:
        raise RecipeError("--runner rpc needs either --tracker HOST:PORT or --server HOST:PORT of a board")
    from qkd.targets.running.rpc import parse_address

    address = parse_address(places[0], key or target.name, tracker=bool(tracker))
    return lambda library: open_board(library, address)


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
