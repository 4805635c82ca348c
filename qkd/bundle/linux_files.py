"""What a bundle holds for Linux besides: the shared library and a Python module with NumPy arrays over its C API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkd import __version__
from qkd.bundle.rendering import render
from qkd.graph.graph import Value
from qkd.graph.steps import ARENA_ALIGN, arena_bytes

if TYPE_CHECKING:
    from qkd.lower.lower import Library

PIXEL_ZERO_POINT = 128
PIXEL_SCALE = 1 / 64
"""Every student of qkd sees pixels as (pixel - 128) / 64, see `qkd.data.datasets`: the codes are pixel - 128."""


def linux_files(library: Library, bits: str, shared_library: bytes) -> dict[str, bytes]:
    """The files by path: `lib/lib<name>.so`, the package `python/<name>` and the self-test that uses it.

    Parameters
    ----------
    library : Library
        The lowered graph.
    bits : str
        The format, for the texts.
    shared_library : bytes
        What `qkd.targets.running.shared_library.link_shared_library` made of it.
    """
    name = library.name
    return {
        f"lib/lib{name}.so": shared_library,
        f"python/{name}/__init__.py": python_module(library, bits).encode(),
        f"python/{name}/py.typed": b"",
        "selftest/selftest.py": render("selftest.py.j2", name=name).encode(),
    }


def python_module(library: Library, bits: str) -> str:
    """The text of the package's only module; it needs NumPy and nothing of qkd."""
    graph = library.graph
    entry, result = graph.values[graph.inputs[0]], graph.values[graph.outputs[0]]
    pixels = takes_pixels(entry)
    types = ("int8 codes", *(("uint8 pixels",) if pixels else ()), "float16, float32 or float64 real values")
    return render(
        "linux_model.py.j2",
        name=library.name,
        bits=bits,
        version=__version__,
        target=library.target,
        sha256=graph.sha256(),
        arena_bytes=arena_bytes(graph),
        arena_align=ARENA_ALIGN,
        input=entry,
        input_shape=entry.shape[1:],
        output=result,
        output_shape=result.shape[1:],
        takes_pixels=pixels,
        pixel_zero_point=PIXEL_ZERO_POINT,
        accepted_types=", ".join(types),
    )


def takes_pixels(entry: Value) -> bool:
    """Whether a byte of an image is exactly one code of the input, with the meaning that it had in training."""
    in_range = (entry.qmin, entry.qmax) == (-PIXEL_ZERO_POINT, PIXEL_ZERO_POINT - 1)
    return in_range and entry.qparams.zero_point == 0 and entry.qparams.scale[0] == PIXEL_SCALE
