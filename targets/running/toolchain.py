"""Compilers and emulators: found, or missed with the way to install them; run with a time limit; their versions."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from qkd.base.files import disk_error
from qkd.errors import ToolError
from qkd.target import Target

PACKAGES = {
    "cc": "gcc libc6-dev",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "arm-none-eabi-objdump": "binutils-arm-none-eabi",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "aarch64-linux-gnu-objdump": "binutils-aarch64-linux-gnu",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-aarch64": "qemu-user",
}
"""Debian and Ubuntu packages by tool."""

COMPILE_LIMIT_S = 120.0


def needed_tools(target: Target) -> tuple[str, ...]:
    """The programs without which a library cannot be run on the device; `cc` builds the counting plugin."""
    return (target.compiler,) if target.kind == "host" else (target.compiler, target.emulator[0], "cc")


def missing_tools(target: Target) -> tuple[str, ...]:
    """Those of `needed_tools` that are not installed."""
    return tuple(tool for tool in needed_tools(target) if shutil.which(tool) is None)


def install_hint(tools: Sequence[str]) -> str:
    """What to type to get the tools."""
    return "apt install " + " ".join(PACKAGES.get(tool, tool) for tool in tools)


def check_tools(target: Target) -> None:
    """Raise ToolError naming every missing tool of the device; meant for before the long work."""
    missing = missing_tools(target)
    if missing:
        raise ToolError(
            f"{target.name} needs {', '.join(missing)}, which cannot be found on PATH. On Debian or Ubuntu: "
            f"{install_hint(missing)}. Or leave {target.name} out of the recipe's devices."
        )


def find_tool(tool: str) -> str:
    """Absolute path of an installed program, or ToolError with the way to install it."""
    path = shutil.which(tool)
    if path is None:
        raise ToolError(f"{tool} cannot be found on PATH. On Debian or Ubuntu: {install_hint([tool])}")
    return path


def run_tool(command: Sequence[str], task: str, folder: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder` and return how it ended, whatever its status.

    Raises
    ------
    ToolError
        When the program is missing, cannot be started, or runs longer than `limit_s` seconds; it is ended then.
    """
    full = (find_tool(command[0]), *command[1:])
    try:
        # No input: an emulator that reads the terminal would take it over, and stop in the background.
        return subprocess.run(
            full, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, text=True,
            errors="replace", check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        printed = b"".join(part for part in (error.stdout, error.stderr) if isinstance(part, bytes))
        message = f"{task} did not end within {limit_s:g} s; it hangs, or needs a longer limit"
        raise ToolError(message, command, printed.decode(errors="replace")) from None
    except OSError as error:
        raise ToolError(f"{task}: {command[0]} cannot be started: {error}", command) from error


@contextmanager
def working_folder() -> Iterator[Path]:
    """A temporary folder for the time of a `with` block, or ToolError where none can be made."""
    try:
        folder = Path(mkdtemp(prefix="qkd-"))
    except OSError as error:
        raise disk_error(Path(gettempdir()), error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_checked(command: Sequence[str], task: str, folder: Path, limit_s: float = COMPILE_LIMIT_S) -> str:
    """Run a program that must succeed and return what it printed, or raise ToolError with its last lines."""
    done = run_tool(command, task, folder, limit_s)
    if done.returncode != 0:
        raise ToolError(f"{task} failed: {ending(done.returncode)}", command, done.stdout + done.stderr)
    return done.stdout


def ending(status: int) -> str:
    """How a program ended, in words."""
    return f"status {status}" if status >= 0 else f"ended by signal {-status}"


@cache
def tool_version(tool: str) -> str:
    """First line of what `tool --version` prints."""
    lines = run_checked([tool, "--version"], f"asking {tool} for its version", Path.cwd()).splitlines()
    return lines[0].strip() if lines else "unknown"


def tool_versions(target: Target) -> dict[str, str]:
    """The versions that a measurement on the device depends on, by tool."""
    return {tool: tool_version(tool) for tool in needed_tools(target)}
