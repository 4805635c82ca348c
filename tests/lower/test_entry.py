"""The C API of the entry object: return codes, hook, information, and where its constants lie."""

import ctypes
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from benchmarks.lowering import lowered
from benchmarks.random_graphs import random_inputs, residual_graph
from qkd import __version__
from qkd.graph import reference
from qkd.graph.steps import ARENA_ALIGN, total_macs
from qkd.lower.entry import ERROR_INVALID, ERROR_TOO_SMALL, OK
from qkd.lower.lower import Library
from qkd.targets import load_target

Hook = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)


class Context(ctypes.Structure):
    _fields_ = (("arena", ctypes.c_void_p), ("hook", Hook), ("user", ctypes.c_void_p))


class Information(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("name", "version", "graph_sha256")),
        *((name, ctypes.c_uint32) for name in ("arena_bytes", "macs", "layers", "input_bytes", "output_bytes")),
        *((name, ctypes.c_int32) for name in ("input_zero_point", "output_zero_point")),
    )


@pytest.fixture(scope="module")
def library() -> Library:
    return lowered(residual_graph(3, name="tiny"), load_target("host"))


@pytest.fixture(scope="module")
def code(library: Library, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder: Path = tmp_path_factory.mktemp("entry")
    for name, image in library.objects:
        (folder / name).write_bytes(image)
    command = ["cc", "-shared", "-o", "tiny.so", *(name for name, _ in library.objects)]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "tiny.so"))


@pytest.fixture
def arena(library: Library) -> Iterator[int]:
    """Address of an aligned arena."""
    size = library.graph.arena_bytes or 0
    memory = np.zeros(size + ARENA_ALIGN, np.uint8)
    yield memory.ctypes.data + -memory.ctypes.data % ARENA_ALIGN
    del memory


def init(code: ctypes.CDLL, context: Context | None, arena: int, arena_bytes: int | None) -> int:
    pointer = None if context is None else ctypes.byref(context)
    return int(code.tiny_init(pointer, ctypes.c_void_p(arena), ctypes.c_uint32(arena_bytes or 0)))


def test_init_binds_the_arena_and_clears_the_hook(code: ctypes.CDLL, library: Library, arena: int) -> None:
    context = Context(None, Hook(lambda *_: None), 5)
    assert init(code, context, arena, library.graph.arena_bytes) == OK
    assert context.arena == arena
    assert not context.hook
    assert context.user is None


def test_init_refuses_null_pointers_and_an_unaligned_arena(code: ctypes.CDLL, library: Library, arena: int) -> None:
    size = library.graph.arena_bytes
    assert init(code, None, arena, size) == ERROR_INVALID
    assert init(code, Context(), 0, size) == ERROR_INVALID
    assert init(code, Context(), arena + 8, size) == ERROR_INVALID


def test_init_refuses_an_arena_that_is_one_byte_short(code: ctypes.CDLL, library: Library, arena: int) -> None:
    context = Context()
    assert init(code, context, arena, (library.graph.arena_bytes or 0) - 1) == ERROR_TOO_SMALL
    assert context.arena is None


def run(code: ctypes.CDLL, context: Any, source: Any, target: Any) -> int:
    return int(code.tiny_run(context, source, target))


def test_run_refuses_an_unbound_context_and_null_buffers(code: ctypes.CDLL, library: Library, arena: int) -> None:
    buffer = ctypes.create_string_buffer(256)
    context = Context()
    assert run(code, ctypes.byref(context), buffer, buffer) == ERROR_INVALID
    assert run(code, None, buffer, buffer) == ERROR_INVALID
    assert init(code, context, arena, library.graph.arena_bytes) == OK
    assert run(code, ctypes.byref(context), None, buffer) == ERROR_INVALID
    assert run(code, ctypes.byref(context), buffer, None) == ERROR_INVALID


def test_the_hook_hears_of_every_layer_in_order_with_the_users_pointer(
    code: ctypes.CDLL, library: Library, arena: int
) -> None:
    heard: list[tuple[int | None, int, int]] = []
    context = Context()
    init(code, context, arena, library.graph.arena_bytes)
    context.hook, context.user = Hook(lambda *event: heard.append(event)), 0x1234
    inputs = random_inputs(library.graph, 1)
    output = np.zeros(5, np.int32)
    status = run(
        code, ctypes.byref(context), inputs.ctypes.data_as(ctypes.c_void_p), output.ctypes.data_as(ctypes.c_void_p)
    )
    assert status == OK
    assert heard == [(0x1234, layer, begin) for layer in range(8) for begin in (1, 0)]
    assert np.array_equal(output, reference.run(library.graph, inputs)[library.graph.outputs[0]][0])


def test_information_tells_what_the_graph_is(code: ctypes.CDLL, library: Library) -> None:
    code.tiny_info.restype = ctypes.POINTER(Information)
    facts = code.tiny_info().contents
    graph = library.graph
    assert (facts.name, facts.version) == (b"tiny", __version__.encode())
    assert facts.graph_sha256 == graph.sha256().encode()
    assert (facts.arena_bytes, facts.macs, facts.layers) == (graph.arena_bytes, total_macs(graph), 8)
    assert (facts.input_bytes, facts.output_bytes) == (9 * 7 * 3, 4 * 5)
    assert (facts.input_zero_point, facts.output_zero_point) == (0, 0)


@pytest.mark.parametrize("name", ["cortex_m4", "cortex_m55"])
def test_nothing_of_a_cortex_m_entry_lies_in_ram(name: str) -> None:
    _, image = lowered(residual_graph(3), load_target(name)).objects[-1]
    sections = list(ELFFile(io.BytesIO(image)).iter_sections())
    loaded = [section for section in sections if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_size"]]
    assert not [section.name for section in loaded if section["sh_flags"] & SH_FLAGS.SHF_WRITE]
    constants = [section for section in loaded if section.name.startswith(".rodata.random_layer")]
    assert len(constants) == 12
    assert all(section["sh_addralign"] == 16 for section in constants)
