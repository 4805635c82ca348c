"""Run a library in this process: the host's C compiler links its objects, ctypes calls the C API of the header."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkd.errors import InvariantError
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import ARENA_ALIGN, arena_bytes
from qkd.proof.device_run import Codes, DeviceRun
from qkd.targets.running.image import arena_offset, traced_values
from qkd.targets.running.shared_library import link_shared_library
from qkd.targets.running.toolchain import tool_versions

if TYPE_CHECKING:
    from qkd.lower.lower import Library

_Hook = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)

GUARD_BYTES = 64
FILL = 0xA5


class _Context(ctypes.Structure):
    _fields_ = (("arena", ctypes.c_void_p), ("hook", _Hook), ("user", ctypes.c_void_p))


class HostModel:
    """A library loaded into this process, with an arena between guards."""

    def __init__(self, library: Library, folder: Path) -> None:
        """Link the objects in `folder`, which must stay until the model is no longer used, and bind the arena."""
        self.library, self.graph = library, library.graph
        self._code = ctypes.CDLL(str(link_shared_library(library, folder)))
        self._memory, self._arena = _guarded_arena(arena_bytes(self.graph))
        self._context = _Context()
        self._call("init", ctypes.byref(self._context), _address(self._arena), ctypes.c_uint32(len(self._arena)))

    def run(self, inputs: NDArray[np.int8], trace: bool) -> DeviceRun:
        """Run every input; `trace` brings back what each layer computed."""
        output = self.graph.values[self.graph.outputs[0]]
        outputs: Codes = np.empty((len(inputs), output.elements), output.dtype)
        layers = empty_layers(self.graph, len(inputs)) if trace else None
        for sample, codes in enumerate(inputs):
            if layers is not None:
                self._context.hook = self._copy_hook([array[sample] for array in layers.values()], outputs[sample])
            self._call("run", ctypes.byref(self._context), _address(codes), _address(outputs[sample]))
        self._context.hook = _Hook()
        self._check_guards()
        return DeviceRun(outputs, layers, tool_versions=tool_versions(self.library.target))

    def measure(self, inputs: NDArray[np.int8], run: DeviceRun) -> DeviceRun:
        """Nothing: instructions cannot be counted here, and time on this machine says nothing about a device."""
        return run

    def _copy_hook(self, layers: list[Codes], output: Codes) -> Any:
        """A hook that copies each layer's output, at the moment when its end is reported, into its place in a trace."""
        values = [self.graph.values[name] for name in traced_values(self.graph)]

        def copy_layer(_user: int | None, layer: int, begin: int) -> None:
            if begin:
                return
            offset = arena_offset(self.graph, values[layer].name)
            end = None if offset is None else offset + values[layer].buffer_bytes
            written = output if offset is None else self._arena[offset:end].view(values[layer].dtype)
            layers[layer][...] = written.reshape(layers[layer].shape)

        return _Hook(copy_layer)

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._code, f"{self.library.name}_{function}")(*arguments)
        if status != 0:
            raise InvariantError(
                f"{self.library.name}_{function} returned {status} for arguments that its header allows"
            )

    def _check_guards(self) -> None:
        start = _address(self._arena).value - self._memory.ctypes.data  # type: ignore[operator]
        end = start + len(self._arena)
        if np.any(self._memory[:start] != FILL) or np.any(self._memory[end:] != FILL):
            raise InvariantError(f"{self.library.name!r} wrote outside its arena on the host")


def empty_layers(graph: QuantGraph, count: int) -> dict[str, Codes]:
    """Arrays for a trace of `count` inputs, by value name."""
    entries = [graph.values[name] for name in traced_values(graph)]
    return {entry.name: np.empty((count, *entry.shape[1:]), entry.dtype) for entry in entries}


def _guarded_arena(size_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Memory full of rubbish and the aligned arena within it, so that a wrong read or write shows."""
    memory = np.full(size_bytes + 2 * GUARD_BYTES + ARENA_ALIGN, FILL, np.uint8)
    start = GUARD_BYTES + -(memory.ctypes.data + GUARD_BYTES) % ARENA_ALIGN
    return memory, memory[start : start + size_bytes]


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
