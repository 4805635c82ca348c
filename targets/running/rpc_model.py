"""A library on a board: linked with the harness into a shared library, uploaded over TVM's RPC, run and timed there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

import numpy as np
from numpy.typing import NDArray

from qkd.base.files import write_atomic
from qkd.bundle.header import c_header
from qkd.errors import InvariantError, ToolError, UnsupportedOpError
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.proof.device_run import DeviceRun
from qkd.target import Target
from qkd.targets.running.board_identity import AUXILIARY, identify, missing_instructions
from qkd.targets.running.harness import (
    JOB_PROFILE,
    STATUS_BROKEN_PROMISE,
    HarnessModel,
    ResultFile,
    job_file,
    result_sizes,
)
from qkd.targets.running.image import harness_header
from qkd.targets.running.rpc import BoardAddress, BoardSession
from qkd.targets.running.shared_library import link_shared_library
from qkd.targets.running.toolchain import tool_version

if TYPE_CHECKING:
    from qkd.lower.lower import Library

RESULT_FILES = get_args(ResultFile)
MESSAGE_BYTES = 256
EXPORTS = ("__tvm_ffi_qkd_run", "__tvm_ffi_qkd_read", "__tvm_ffi_qkd_counter_hz")

WARM_UP = 10
REPEATS = 100
"""Timed inferences after the warm-up; the median of them is the latency."""


class RpcModel(HarnessModel):
    """A library that a board has loaded; a context manager, which ends the session."""

    def __init__(self, library: Library, address: BoardAddress, folder: Path, limit_s: float) -> None:
        """Link in `folder`, connect, upload and find out what the board is."""
        super().__init__(library)
        shared = link_board_library(library, folder)
        self._task = f"{library.name!r} on {address}"
        self._session = BoardSession(address, limit_s)
        try:
            self._load(shared)
            self.board = identify(self._session.read, self._session.counter_hz())
        except BaseException:
            self._session.close()
            raise

    def _load(self, shared: Path) -> None:
        target = self.library.target
        try:
            self._session.load(shared)
        except ToolError as error:
            raise ToolError(
                f"the board cannot take {self._task}, which was built for {target.mtriple}; see that it is such a "
                f"machine, and name the --device that it is. {error}"
            ) from None
        if missing := missing_instructions(self._session.read(AUXILIARY), target.instruction_set):
            raise ToolError(f"the board lacks {missing} instructions, which {target.name} has; name another --device")

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the session."""
        self._session.close()

    def do(self, job: int, inputs: NDArray[np.int8], count: int) -> Mapping[ResultFile, bytes]:
        """Do one job of the harness on the board and return its result files."""
        wanted = result_sizes(self.graph, job, count)
        sizes = [*(wanted.get(name, 0) for name in RESULT_FILES), MESSAGE_BYTES]
        status, (*contents, message) = self._session.run(job_file(job, inputs, count), sizes)
        text = message.partition(b"\0")[0].decode(errors="replace").strip()
        if status == STATUS_BROKEN_PROMISE:
            raise InvariantError(f"{self._task}: {text}")
        if status != 0:
            raise ToolError(f"{self._task} failed with status {status}: {text or 'no message'}")
        return dict(zip(RESULT_FILES, contents, strict=True))

    def measure(self, inputs: NDArray[np.int8], run: DeviceRun) -> DeviceRun:
        """Time inferences of the first input, on a board that is known not to be emulated only."""
        run = replace(run, board=self.board)
        if self.board.emulated is not False:
            return run
        marks = self.do(JOB_PROFILE, inputs[:1], WARM_UP + REPEATS)["marks.bin"]
        latency_us, layer_latency_us = latencies(self.graph, np.frombuffer(marks, "<u8"))
        return replace(run, latency_us=latency_us, layer_latency_us=layer_latency_us)

    def tool_versions(self) -> dict[str, str]:
        """Of the compiler; the board tells its own."""
        compiler = self.library.target.compiler
        return {compiler: tool_version(compiler)}


def latencies(graph: QuantGraph, marks_ns: NDArray[np.uint64]) -> tuple[float, dict[str, float]]:
    """Median time of an inference and of each layer, in microseconds.

    Parameters
    ----------
    graph : QuantGraph
    marks_ns : uint64 array of shape ((WARM_UP + R) * (4 + 2 * layers),)
        The clock at the marks of runtime/harness.c: pairs around nothing, an inference, each layer of another.

    Returns
    -------
    float, dict of str to float
        What a pair of marks takes by itself is subtracted; no clock is so fine that the rest may be negative.
    """
    names = [op.name for op in steps(graph)]
    pairs_ns = marks_ns.astype(np.int64).reshape(-1, 2 + len(names), 2)[WARM_UP:]
    medians_ns = np.median(pairs_ns[:, :, 1] - pairs_ns[:, :, 0], axis=0)
    whole, *layers = (np.maximum(medians_ns[1:] - medians_ns[0], 0) / 1000).tolist()
    return whole, dict(zip(names, layers, strict=True))


def link_board_library(library: Library, folder: Path) -> Path:
    """Link a library and the harness into a shared library that TVM's RPC server can load.

    Raises
    ------
    UnsupportedOpError
        When the target does not run Linux.
    ToolError
        When the compiler is missing or refuses.
    """
    _check_linux(library.target)
    runtime = files("qkd.targets") / "runtime"
    write_atomic(folder / f"{library.name}.h", c_header(library.name, library.graph, None, None))
    write_atomic(folder / "harness_model.h", harness_header(library.name, library.graph))
    for name in ("harness.c", "host.h"):
        write_atomic(folder / name, (runtime / name).read_bytes())
    sources = {"rpc_host.c": (runtime / "rpc_host.c").read_text(encoding="utf-8")}
    return link_shared_library(library, folder, sources, EXPORTS)


def _check_linux(target: Target) -> None:
    if target.kind == "cortex_m":
        raise UnsupportedOpError(
            f"{target.name} runs no Linux, so no TVM RPC server; a board with it runs the self-test of its bundle. "
            "Over RPC: a cortex_a or armv8 device, or host."
        )
