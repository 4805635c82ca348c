"""A session with a board over TVM's RPC, by a tracker or directly; every wait has an end."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import rpc

from qkd.errors import RecipeError, ToolError
from qkd.targets.running.worker import Worker

CONNECT_LIMIT_S = 60.0
REACH_LIMIT_S = 10.0
SESSION_LIMIT_S = 3600
"""After this time the board ends a session by itself, should this machine vanish."""
FACT_BYTES = 65536
"""Largest part of a board's file that is read to find out what it is."""


@dataclass(frozen=True)
class BoardAddress:
    """Where a board is asked for: a tracker that hands out boards by key, or the board's own server."""

    host: str
    port: int
    key: str
    tracker: bool

    def __str__(self) -> str:
        """The address as messages name it."""
        return f"{'tracker' if self.tracker else 'board'} {self.host}:{self.port}"


def parse_address(text: str, key: str, tracker: bool) -> BoardAddress:
    """Read HOST:PORT, or raise RecipeError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RecipeError(f"{text!r} is no address; write HOST:PORT, for example 127.0.0.1:9190")
    return BoardAddress(host.strip("[]"), int(port), key, tracker)


def tracker_keys(address: BoardAddress) -> list[str]:
    """The keys of the boards that a tracker knows, or ToolError where it cannot be asked."""
    _check_reachable(address)
    worker = Worker(lambda: None)
    try:
        return worker.ask(CONNECT_LIMIT_S, f"asking {address}", lambda _: _known_keys(address))
    finally:
        worker.close()


def _known_keys(address: BoardAddress) -> list[str]:
    tracker = rpc.connect_tracker(address.host, address.port)
    try:
        return sorted({server["key"].removeprefix("server:") for server in tracker.summary()["server_info"]})
    finally:
        tracker.close()


class BoardSession:
    """A session with a board that has loaded a library with the functions of runtime/rpc_host.c."""

    def __init__(self, address: BoardAddress, limit_s: float) -> None:
        """Connect, or raise ToolError; `limit_s` bounds each later call."""
        self.address, self.limit_s = address, limit_s
        _check_reachable(address)
        self._worker = Worker(_Remote)
        try:
            self._worker.ask(CONNECT_LIMIT_S, f"connecting to {address}", lambda remote: remote.connect(address))
        except ToolError:
            self._worker.close()
            raise

    def load(self, library: Path) -> None:
        """Upload a shared library and load it into the board's server."""
        name = f"{library.name} by {self.address}"
        self._worker.ask(self.limit_s, f"uploading {name}", lambda remote: remote.upload(library))
        self._worker.ask(self.limit_s, f"loading {name}", lambda remote: remote.load(library.name))

    def run(self, inputs: bytes, sizes: Sequence[int]) -> tuple[int, list[bytes]]:
        """Call the harness; its status, and its result files of `sizes` bytes."""
        task = f"running a model on {self.address}"
        try:
            return self._worker.ask(self.limit_s, task, lambda remote: remote.run(inputs, sizes))
        except ToolError as error:
            raise ToolError(f"{error}\nTVM's server ends with a library that crashes; start it again then.") from None

    def read(self, path: str) -> bytes:
        """What stands behind a path on the board; b"" where nothing does."""
        return self._worker.ask(self.limit_s, f"reading {path} on {self.address}", lambda remote: remote.read(path))

    def counter_hz(self) -> int:
        """Frequency of the core's generic timer; 0 where it has none."""
        task = f"reading the timer of {self.address}"
        return self._worker.ask(self.limit_s, task, lambda remote: int(remote.module["qkd_counter_hz"]()))

    def close(self) -> None:
        """End the session, if there is still somebody to end it with."""
        self._worker.close()


class _Remote:
    """The objects of a session; only a worker's thread may touch them."""

    def __init__(self) -> None:
        self.session: Any = None
        self.module: Any = None

    def connect(self, address: BoardAddress) -> None:
        if not address.tracker:
            self.session = rpc.connect(address.host, address.port, address.key, SESSION_LIMIT_S)
            return
        _check_key(address, _known_keys(address))
        tracker = rpc.connect_tracker(address.host, address.port)
        try:
            self.session = tracker.request(address.key, session_timeout=SESSION_LIMIT_S, max_retry=1)
        finally:
            tracker.close()

    def upload(self, library: Path) -> None:
        self.session.upload(bytearray(library.read_bytes()), library.name)

    def load(self, name: str) -> None:
        self.module = self.session.load_module(name)

    def run(self, inputs: bytes, sizes: Sequence[int]) -> tuple[int, list[bytes]]:
        results = [self._empty(size) for size in sizes]
        given = tvm.runtime.tensor(np.frombuffer(inputs, np.uint8), self.session.cpu())
        status = int(self.module["qkd_run"](given, *results))
        return status, [_content(result)[:size].tobytes() for result, size in zip(results, sizes, strict=True)]

    def read(self, path: str) -> bytes:
        content = self._empty(FACT_BYTES)
        size = int(self.module["qkd_read"](path, content))
        return _content(content)[: max(size, 0)].tobytes()

    def _empty(self, size: int) -> Any:
        return tvm.runtime.empty((max(size, 1),), "uint8", self.session.cpu())


def _content(tensor: Any) -> NDArray[np.uint8]:
    return np.asarray(tensor.numpy())


def _check_reachable(address: BoardAddress) -> None:
    """TVM asks for a minute before it says that nobody listens."""
    try:
        socket.create_connection((address.host, address.port), REACH_LIMIT_S).close()
    except OSError as error:
        program = "tracker" if address.tracker else "server --key KEY"
        raise ToolError(
            f"{address} cannot be reached: {error}. Start one there with `python -m tvm.exec.rpc_{program} "
            f"--host 127.0.0.1 --port {address.port}`; whoever reaches it can run programs, so give it no open network."
        ) from None


def _check_key(address: BoardAddress, known: Sequence[str]) -> None:
    """A tracker keeps a request for a key that nobody has for ever."""
    if address.key not in known:
        raise ToolError(
            f"{address} has no board with key {address.key!r}; it has {', '.join(known) or 'none'}. On the board: "
            f"`python -m tvm.exec.rpc_server --tracker {address.host}:{address.port} --key {address.key} --host IP`"
        )
