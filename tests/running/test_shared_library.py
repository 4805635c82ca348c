"""The shared library for Linux: exports its C API alone, has a name, can be loaded anywhere, needs no libm."""

import ctypes
import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from benchmarks.lowering import lowered
from benchmarks.random_graphs import residual_graph
from qkd.bundle.header import c_header
from qkd.errors import InvariantError, ToolError
from qkd.graph.graph import Reshape
from qkd.lower.lower import Library
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.targets.running.shared_library import dynamic_facts, exported_symbols, link_shared_library
from tests.support.stub_library import c_library, device_or_skip, portable_library

API = {"demo_init", "demo_run", "demo_info"}
LINUX = ["host", "cortex_a53"]

pytestmark = pytest.mark.device


def demo(device: str) -> Library:
    return portable_library(device_or_skip(device), PlanMemory()(residual_graph(name="demo")))


def lowered_demo(device: str) -> Library:
    return lowered(residual_graph(name="demo"), device_or_skip(device))


@pytest.mark.parametrize("device", LINUX)
def test_a_shared_library_exports_its_api_and_needs_at_most_libc(device: str, tmp_path: Path) -> None:
    image = link_shared_library(lowered_demo(device), tmp_path).read_bytes()
    assert exported_symbols(image) == API
    assert dynamic_facts(image)["DT_SONAME"] == ["libdemo.so"]
    assert set(dynamic_facts(image)["DT_NEEDED"]) <= {"libc.so.6"}


@pytest.mark.parametrize("device", LINUX)
def test_it_is_position_independent_and_writes_no_address_into_code(device: str, tmp_path: Path) -> None:
    elf = ELFFile(io.BytesIO(link_shared_library(lowered_demo(device), tmp_path).read_bytes()))
    assert elf["e_type"] == "ET_DYN"
    assert all(segment["p_flags"] & 3 != 3 for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD")
    assert [tag.entry.d_tag for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_TEXTREL")] == []
    [stack] = [segment for segment in elf.iter_segments() if segment["p_type"] == "PT_GNU_STACK"]
    assert not stack["p_flags"] & 1


def test_the_same_library_links_to_the_same_bytes(tmp_path: Path) -> None:
    library, images = demo("cortex_a53"), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        images.append(link_shared_library(library, tmp_path / name).read_bytes())
    assert images[0] == images[1]


def test_functions_of_others_are_linked_in_and_exported_by_name(tmp_path: Path) -> None:
    source = '#include "demo.h"\nint answer(void); int hidden(void);\nint hidden(void) { return 42; }\n' + (
        "int answer(void) { return hidden() + (int)demo_info()->layers; }\n"
    )
    library = demo("host")
    (tmp_path / "demo.h").write_text(c_header("demo", library.graph, None, None))
    path = link_shared_library(library, tmp_path, {"more.c": source}, ("answer",))
    assert exported_symbols(path.read_bytes()) == {*API, "answer"}
    assert ctypes.CDLL(str(path)).answer() == 42 + sum(not isinstance(op, Reshape) for op in library.graph.ops)


def test_a_symbol_that_nobody_defines_is_named_by_the_linker(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"linking libdemo\.so for host failed(?s:.)*missing_function"):
        link_shared_library(
            demo("host"), tmp_path, {"more.c": "void missing_function(void);\nvoid f(void) { missing_function(); }\n"}
        )


def test_an_api_that_is_incomplete_is_an_error(tmp_path: Path) -> None:
    library = demo("host")
    broken = c_library(library.target, library.graph, {"demo.c": "int demo_init(void) { return 0; }\n"})
    with pytest.raises(InvariantError, match=r"exports \['demo_init'\]; it should export \['demo_info', 'demo_init'"):
        link_shared_library(broken, tmp_path)
