"""Compile one kernel for this machine, link it and call it with NumPy arrays."""

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from qkd.lower.codegen import compile_kernel
from qkd.targets import load_target
from qkd.tir.tir import Param, function


def call_on_host(body: Callable[..., None], *arrays: NDArray[Any], may_alias: bool = False, prelude: str = "") -> None:
    """Run `body` as a kernel whose pointers are `arrays`, in place."""
    params = [Param(f"p{i}", str(array.dtype), array.size) for i, array in enumerate(arrays)]
    image = compile_kernel(function("kernel", params, body, may_alias=may_alias, prelude=prelude), load_target("host"))
    load(image, "kernel")(*(ctypes.c_void_p(array.ctypes.data) for array in arrays))


def load(image: bytes, symbol: str) -> Any:
    """Link an object into a shared library and give its function."""
    with TemporaryDirectory() as folder:
        Path(folder, "kernel.o").write_bytes(image)
        subprocess.run(["cc", "-shared", "-o", "kernel.so", "kernel.o"], cwd=folder, check=True)
        return getattr(ctypes.CDLL(f"{folder}/kernel.so"), symbol)


def disassemble(image: bytes, tool: str) -> str:
    """What `tool` (an objdump) reads in an object's code."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "kernel.o")
        path.write_bytes(image)
        command: Sequence[str] = [tool, "-d", "--no-show-raw-insn", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
