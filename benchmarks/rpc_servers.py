"""TVM's tracker and RPC servers for the time of a `with` block, on loopback unless told otherwise.

TVM's own default is every network of the machine, and whoever reaches a server can run programs on it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from qkd.errors import ToolError
from qkd.targets.running.rpc import BoardAddress, tracker_keys

LOOPBACK = "127.0.0.1"
START_LIMIT_S = 600.0  # two Pythons import TVM one after the other; emulated, on a busy machine, that takes minutes
POLL_S = 0.25
TRACKER = (sys.executable, "-m", "tvm.exec.rpc_tracker")
SERVER = (sys.executable, "-m", "tvm.exec.rpc_server")


@contextmanager
def tracker(log: Path, host: str = LOOPBACK) -> Iterator[BoardAddress]:
    """A tracker that answers; its address has no key yet."""
    address = BoardAddress(host, free_port(host), "", tracker=True)
    with running((*TRACKER, *_place(address)), lambda: tracker_keys(address) == [], log):
        yield address


@contextmanager
def server(
    to: BoardAddress, key: str, log: Path, command: Sequence[str] = SERVER, host: str = LOOPBACK
) -> Iterator[BoardAddress]:
    """A server that has told the tracker its key; yields where to ask for it."""
    place = _place(BoardAddress(host, free_port(host), key, tracker=False))
    full = (*command, *place, "--key", key, "--tracker", f"{to.host}:{to.port}")
    with running(full, lambda: key in tracker_keys(to), log):
        yield replace(to, key=key)


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], ready: Callable[[], bool], log: Path) -> Iterator[None]:
    """Run a program that serves, from when it is `ready` on, in a group of its own: its workers must end with it."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait(process, ready, log)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    last = time.monotonic() + START_LIMIT_S
    while time.monotonic() < last and process.poll() is None:
        try:
            if ready():
                return
        except ToolError:
            pass  # nobody listens yet
        time.sleep(POLL_S)
    ended = process.poll() is not None
    message = "a server ended; does it lack `pip install 'qkd[rpc]'`?" if ended else f"no server in {START_LIMIT_S:g} s"
    raise ToolError(message, process.args, log.read_text(errors="replace"))  # type: ignore[arg-type]


def _place(address: BoardAddress) -> tuple[str, ...]:
    """TVM's options; a port range that ends at the port is empty to it."""
    return ("--host", address.host, "--port", str(address.port), "--port-end", str(address.port + 1))
