"""The firmware folder: library, C sources, golden vectors, self-test, example and manifest, written as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkd import __version__
from qkd.base.files import save_folder
from qkd.bundle.archive import archive
from qkd.bundle.golden import golden_files
from qkd.bundle.header import c_header
from qkd.bundle.linux_files import linux_files
from qkd.bundle.manifest import MANIFEST, Manifest, Memory, Size, file_hashes
from qkd.bundle.portable_c import portable_sources
from qkd.bundle.rendering import render
from qkd.errors import RecipeError
from qkd.graph.steps import arena_bytes, total_macs
from qkd.recipe import Recipe
from qkd.target import Target

if TYPE_CHECKING:
    from qkd.lower.lower import Library


@dataclass(frozen=True)
class BundleFacts:
    """What the manifest tells besides what can be read off the library."""

    bits: str
    recipe: Recipe | None = None
    tool_versions: Mapping[str, str] = field(default_factory=dict)


def write_bundle(
    folder: Path,
    library: Library,
    golden_inputs: NDArray[np.int8],
    stack_bytes: int | None,
    flash_bytes: int | None,
    facts: BundleFacts,
    runtime: Mapping[str, bytes] | None = None,
    shared_library: bytes | None = None,
) -> Path:
    """Write the folder that a firmware build takes in; an older bundle there is replaced once the new one is complete.

    Parameters
    ----------
    folder : Path
        Where; must be new, empty or a bundle.
    library : Library
        The lowered graph.
    golden_inputs : int8 array of shape (N, *input shape without its leading 1)
        A few real samples as codes, for the self-test.
    stack_bytes, flash_bytes : int or None
        What was measured; None where it was not.
    facts : BundleFacts
        For the manifest.
    runtime : mapping of file name to content, optional
        Start-up code, linker script and printing of the emulated board; a Cortex-M self-test needs them.
    shared_library : bytes, optional
        The library linked for Linux; the bundle then holds it and a Python module that loads it.

    Returns
    -------
    Path
        `folder`.

    Raises
    ------
    RecipeError
        When `folder` holds something that is not a bundle, or there are no golden inputs.
    ToolError
        When the disk is full or the folder cannot be written.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise RecipeError(f"{folder} holds files that are not a bundle and would be lost; choose an empty folder")
    files = bundle_files(library, golden_inputs, stack_bytes, flash_bytes, facts, runtime or {}, shared_library)
    save_folder(folder, lambda partial: _write(partial, files))
    return folder


def bundle_files(
    library: Library,
    golden_inputs: NDArray[np.int8],
    stack_bytes: int | None,
    flash_bytes: int | None,
    facts: BundleFacts,
    runtime: Mapping[str, bytes],
    shared_library: bytes | None = None,
) -> dict[str, bytes]:
    """The content of a bundle by path; the same bytes for the same arguments."""
    name, graph, target = library.name, library.graph, library.target
    sizes = _sizes(library, stack_bytes, flash_bytes)
    files = {
        f"include/{name}.h": c_header(name, graph, stack_bytes, flash_bytes).encode(),
        f"lib/lib{name}.a": archive(library.objects),
        **{f"src/{file}": text.encode() for file, text in portable_sources(name, graph).items()},
        **{f"golden/{file}": content for file, content in golden_files(name, graph, golden_inputs).items()},
        **_texts(library, facts.bits, sizes, len(golden_inputs), runtime, shared_library is not None),
        **(linux_files(library, facts.bits, shared_library) if shared_library is not None else {}),
        **{f"example/runtime/{file}": content for file, content in runtime.items()},
    }
    manifest = Manifest(
        format=1,
        name=name,
        bits=facts.bits,
        graph_sha256=graph.sha256(),
        target=target,
        sizes=sizes,
        macs=total_macs(graph),
        tool_versions={"qkd": __version__, **facts.tool_versions},
        recipe=facts.recipe,
        files=file_hashes(files),
    )
    return {**files, MANIFEST: (manifest.model_dump_json(indent=2) + "\n").encode()}


def _sizes(library: Library, stack_bytes: int | None, flash_bytes: int | None) -> dict[Memory, Size]:
    flash = "exact sum of the code and constant sections of the library's objects; the linker may add padding"
    stack = f"measured in one inference on {library.target.description}, emulated; interrupts come on top"
    return {
        "flash": Size(size_bytes=flash_bytes, evidence="not measured" if flash_bytes is None else flash),
        "arena": Size(size_bytes=arena_bytes(library.graph), evidence="exact, placed at build time, checked by init"),
        "stack": Size(size_bytes=stack_bytes, evidence="not measured" if stack_bytes is None else stack),
    }


def _texts(
    library: Library,
    bits: str,
    sizes: Mapping[Memory, Size],
    golden_count: int,
    runtime: Mapping[str, bytes],
    has_shared_library: bool,
) -> dict[str, bytes]:
    """Self-test, build files and read-me texts."""
    graph, target = library.graph, library.target
    entry, exit_ = graph.values[graph.inputs[0]], graph.values[graph.outputs[0]]
    facts = {
        "name": library.name,
        "NAME": library.name.upper(),
        "version": __version__,
        "target": target,
        "processor": _processor(target),
        "bits": bits,
        "sizes": sizes,
        "macs": total_macs(graph),
        "input_bytes": entry.buffer_bytes,
        "output_bytes": exit_.buffer_bytes,
        "output_type": f"{exit_.dtype}_t",
        "golden_count": golden_count,
        "runtime": sorted(runtime),
        "has_shared_library": has_shared_library,
    }
    templates = {
        "CMakeLists.txt": "CMakeLists.txt.j2",
        "README.md": "bundle_readme.md.j2",
        "LICENSE.md": "bundle_license.md.j2",
        "selftest/selftest.c": "selftest.c.j2",
        "selftest/print_stdio.c": "print_stdio.c.j2",
        "example/CMakeLists.txt": "example.cmake.j2",
    }
    if target.kind != "host":
        templates["example/toolchain.cmake"] = "toolchain.cmake.j2"
    return {path: render(template, **facts).encode() for path, template in templates.items()}


def _processor(target: Target) -> str:
    """The target's name as CMAKE_SYSTEM_PROCESSOR."""
    return "arm" if target.kind == "cortex_m" else target.mtriple.partition("-")[0]


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
