"""Count executed instructions with a plugin of QEMU: build it once, read what it wrote."""

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from qkd.base.files import write_atomic
from qkd.errors import InvariantError
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.targets.running.toolchain import run_checked, working_folder


@dataclass(frozen=True)
class Mark:
    """One entry of the mark function: all instructions so far, and what each address executed since the last mark."""

    total: int
    executed: dict[int, int]


@dataclass(frozen=True)
class Counts:
    """Executed instructions of one inference: as a whole, by operator, and by operator and address."""

    instructions: int
    layer_instructions: dict[str, int]
    executed: dict[str, dict[int, int]]


@cache
def plugin() -> Path:
    """The compiled plugin, from the user's cache folder or built into it; the name carries the hash of its source."""
    source = (files("qkd.targets") / "runtime" / "qemu_count.c").read_bytes()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "qkd" / f"qemu_count-{os.uname().machine}-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if not path.exists():
        with working_folder() as folder:
            write_atomic(folder / "qemu_count.c", source)
            command = ["cc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o", "plugin.so", "qemu_count.c"]
            run_checked(command, "building QEMU's counting plugin", folder)
            write_atomic(path, (folder / "plugin.so").read_bytes())
    return path


def symbol_address(image: Path, symbol: str) -> int:
    """Where a function of an ELF file starts; bit 0, which says Thumb, is cleared."""
    with image.open("rb") as file:
        table: Any = ELFFile(file).get_section_by_name(".symtab")  # the reader's types do not know symbol tables
        found = table.get_symbol_by_name(symbol) if table else None
    if not found:
        raise InvariantError(f"{image.name} has no symbol {symbol!r}; the harness was linked without it")
    return int(found[0]["st_value"]) & ~1


def read_marks(path: Path) -> tuple[Mark, ...]:
    """Read what the plugin wrote."""
    marks: list[Mark] = []
    for line in path.read_text().splitlines():
        first, second = line.split()
        if first == "mark":
            marks.append(Mark(int(second), {}))
        else:
            marks[-1].executed[int(first, 16)] = int(second)
    return tuple(marks)


def between(begin: Mark, end: Mark) -> int:
    """Instructions executed from one mark to another."""
    return end.total - begin.total


def read_counts(graph: QuantGraph, path: Path) -> Counts:
    """Interpret the marks that harness.c sets: around nothing, around one inference, around each layer of another."""
    marks, names = read_marks(path), [op.name for op in steps(graph)]
    if len(marks) != 4 + 2 * len(names):
        raise InvariantError(f"{graph.name!r} has {len(names)} layers, but one run set {len(marks)} marks")
    cost_of_marks = between(marks[0], marks[1])
    pairs = dict(zip(names, zip(marks[4::2], marks[5::2], strict=True), strict=True))
    return Counts(
        between(marks[2], marks[3]) - cost_of_marks,
        {name: between(*pair) - cost_of_marks for name, pair in pairs.items()},
        {name: end.executed for name, (_, end) in pairs.items()},
    )
