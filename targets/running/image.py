"""Link a library, the harness and the start-up code into a program that a device or its emulator can run."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from qkd.base.files import write_atomic
from qkd.bundle.header import c_header
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.target import Target
from qkd.targets.running.toolchain import run_checked

if TYPE_CHECKING:
    from qkd.lower.lower import Library

BARE_METAL_SOURCES = ("harness.c", "semihosting.c", "cortex_m_start.c", "memory.c")
LINUX_SOURCES = ("harness.c", "linux_host.c")

CFLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra")
# Without the last flag gcc turns the loop of memset into a call of memset.
BARE_METAL_CFLAGS = ("-ffreestanding", "-ffunction-sections", "-fno-tree-loop-distribute-patterns")


def build_image(library: Library, folder: Path) -> Path:
    """Compile the harness around a library for its target and link both.

    Parameters
    ----------
    library : Library
        For a Cortex-M or AArch64 target.
    folder : Path
        An empty folder for objects, generated headers and the image.

    Returns
    -------
    Path
        The ELF program, `folder / "image.elf"`.

    Raises
    ------
    ToolError
        When the compiler is missing or refuses, with its last lines.
    """
    target, image = library.target, folder / "image.elf"
    objects = write_objects(library, folder)
    write_atomic(folder / f"{library.name}.h", c_header(library.name, library.graph, None, None))
    write_atomic(folder / "harness_model.h", harness_header(library.name, library.graph))
    with as_file(files("qkd.targets") / "runtime") as runtime:
        command = [
            target.compiler, *target.cflags, *CFLAGS, "-I", ".", *_sources(target, runtime), *objects,
            *link_flags(target, runtime), "-o", image.name,
        ]  # fmt: skip
        run_checked(command, f"linking {library.name!r} for {target.name}", folder)
    return image


def write_objects(library: Library, folder: Path) -> tuple[str, ...]:
    """Write the library's objects into `folder` and return their file names."""
    for name, content in library.objects:
        write_atomic(folder / name, content)
    return tuple(name for name, _ in library.objects)


def link_flags(target: Target, runtime: Path) -> tuple[str, ...]:
    """Compiler flags that make a whole program: no C library on bare metal, a static one under Linux."""
    if target.kind != "cortex_m":
        return ("-static", "-no-pie")
    memories = {
        "FLASH_ORIGIN": target.flash_origin,
        "FLASH_BYTES": target.flash_bytes,
        "SRAM_ORIGIN": target.sram_origin,
        "SRAM_BYTES": target.sram_bytes,
    }
    return (
        *BARE_METAL_CFLAGS, "-nostdlib", "-Wl,--gc-sections", *(f"-Wl,--defsym={k}={v}" for k, v in memories.items()),
        "-T", str(runtime / "cortex_m.ld"), "-lgcc",
    )  # fmt: skip


def harness_header(name: str, graph: QuantGraph) -> str:
    """Write `harness_model.h`: the model's API under the harness's names and where each layer's output lies."""
    output = "int32_t" if graph.values[graph.outputs[0]].dtype == "int32" else "int8_t"
    sizes = "".join(
        f"#define MODEL_{size} {name.upper()}_{size}\n"
        for size in ("ARENA_BYTES", "ARENA_ALIGN", "INPUT_BYTES", "OUTPUT_BYTES")
    )
    return (
        f'#include "{name}.h"\n\n{sizes}#define model_init {name}_init\n#define model_run {name}_run\n'
        f"typedef {name}_context model_context;\ntypedef {output} model_output;\n\n"
        "typedef struct {\n  int32_t in_arena; /* else in the caller's output buffer */\n"
        "  uint32_t offset;\n  uint32_t bytes;\n} harness_layer;\n\n"
        "static const harness_layer harness_layers[] = {\n" + "".join(_layer_rows(graph)) + "};\n"
    )


def traced_values(graph: QuantGraph) -> tuple[str, ...]:
    """The values that a trace holds, in the order in which they are written: the output of each layer."""
    return tuple(op.output for op in steps(graph))


def arena_offset(graph: QuantGraph, value: str) -> int | None:
    """Where in the arena a layer's output lies; None when that is the caller's output buffer."""
    return graph.offsets.get(graph.storage(value))


def _layer_rows(graph: QuantGraph) -> list[str]:
    rows = []
    for value in traced_values(graph):
        offset = arena_offset(graph, value)
        place = "0, 0" if offset is None else f"1, {offset}"
        rows.append(f"    {{{place}, {graph.values[value].buffer_bytes}}}, /* {value} */\n")
    return rows


def _sources(target: Target, runtime: Path) -> list[str]:
    names = BARE_METAL_SOURCES if target.kind == "cortex_m" else LINUX_SOURCES
    return [str(runtime / name) for name in names]
