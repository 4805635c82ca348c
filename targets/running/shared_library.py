"""Link a library's objects into a shared library for Linux that exports its C API and nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elftools.elf.elffile import ELFFile

from qkd.base.files import write_atomic
from qkd.errors import InvariantError
from qkd.targets.running.image import write_objects
from qkd.targets.running.toolchain import run_checked, working_folder

if TYPE_CHECKING:
    from qkd.lower.lower import Library

API = ("init", "run", "info")
"""The functions of the header, each behind the model's name and an underscore."""

LINK_FLAGS = (
    "-shared", "-nostartfiles", "-nodefaultlibs",  # no constructors, no libgcc, no libm
    "-Wl,--no-undefined", "-Wl,-z,text",  # all symbols known, no address written into code: it is shared as it lies
    "-Wl,-z,now", "-Wl,-z,relro", "-Wl,-z,noexecstack", "-Wl,-Bsymbolic", "-Wl,--build-id=none",
)  # fmt: skip
LIBC = ("-Wl,--as-needed", "-lc")
"""For memcpy and memset only; a library that needs neither does not name libc."""
LIBC_FILES = ("libc.so.6",)


def link_shared_library(
    library: Library, folder: Path, sources: Mapping[str, str] | None = None, exports: Sequence[str] = ()
) -> Path:
    """Link `lib<name>.so` for an AArch64 target or the host.

    Parameters
    ----------
    library : Library
    folder : Path
        Where the objects and the result are written; what else lies there does not matter.
    sources : mapping of file name to C text, optional
        Compiled in besides the objects, for whoever must add functions of its own; `-I folder` is set.
    exports : sequence of str
        Symbols of `sources` that stay visible besides the C API.

    Returns
    -------
    Path
        `folder / "lib<name>.so"`, whose SONAME is its file name. Equal bytes for equal arguments and tools.

    Raises
    ------
    ToolError
        When the compiler is missing or refuses, with its last lines.
    InvariantError
        When the result exports or needs something else than it should.
    """
    target, result = library.target, folder / f"lib{library.name}.so"
    visible = (*(f"{library.name}_{function}" for function in API), *exports)
    write_atomic(folder / "exports.map", "{\n  global: " + "".join(f"{name}; " for name in visible) + "local: *;\n};\n")
    for name, text in (sources or {}).items():
        write_atomic(folder / name, text)
    compiled = ("-std=c11", "-O2", "-fPIC", "-fvisibility=default", "-I", ".", *sources) if sources else ()
    command = [
        target.compiler, *target.cflags, *LINK_FLAGS, "-Wl,--version-script=exports.map", f"-Wl,-soname,{result.name}",
        *compiled, *write_objects(library, folder), *LIBC, "-o", result.name,
    ]  # fmt: skip
    run_checked(command, f"linking {result.name} for {target.name}", folder)
    _check(result, set(visible))
    return result


def shared_library_bytes(library: Library) -> bytes | None:
    """The content of `lib<name>.so`; None on bare metal, which has no dynamic linker."""
    if library.target.kind == "cortex_m":
        return None
    with working_folder() as folder:
        return link_shared_library(library, folder).read_bytes()


def exported_symbols(image: bytes) -> set[str]:
    """Names that a program or another library can link to."""
    table: Any = ELFFile(io.BytesIO(image)).get_section_by_name(".dynsym")
    return {symbol.name for symbol in table.iter_symbols() if symbol.name and symbol["st_shndx"] != "SHN_UNDEF"}


def dynamic_facts(image: bytes) -> dict[str, list[str]]:
    """SONAME and NEEDED of a shared library, each by its tag."""
    facts: dict[str, list[str]] = {"DT_SONAME": [], "DT_NEEDED": []}
    section: Any = ELFFile(io.BytesIO(image)).get_section_by_name(".dynamic")
    for tag in section.iter_tags():
        if tag.entry.d_tag == "DT_SONAME":
            facts["DT_SONAME"].append(tag.soname)
        elif tag.entry.d_tag == "DT_NEEDED":
            facts["DT_NEEDED"].append(tag.needed)
    return facts


def _check(path: Path, wanted: set[str]) -> None:
    image = path.read_bytes()
    found, needed = exported_symbols(image), dynamic_facts(image)["DT_NEEDED"]
    if found != wanted:
        raise InvariantError(f"{path.name} exports {sorted(found)}; it should export {sorted(wanted)}")
    if strange := sorted(set(needed) - set(LIBC_FILES)):
        raise InvariantError(f"{path.name} needs {', '.join(strange)}; only {', '.join(LIBC_FILES)} may be needed")
