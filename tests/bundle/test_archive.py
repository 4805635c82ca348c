"""Static libraries: what `ar` and linkers read is what was put in, and the bytes do not change."""

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lowering import lowered
from benchmarks.random_graphs import residual_graph
from qkd.bundle.archive import archive
from qkd.lower.lower import Library
from qkd.lower.objects import defined_symbols
from qkd.targets import load_target

MAIN = """
#include <stdint.h>
extern int32_t tiny_init(void *, void *, uint32_t);
extern int32_t tiny_run(void *, const int8_t *, int32_t *);
static uint8_t arena[%d] __attribute__((aligned(16)));
int main(void) {
  void *context[3];
  static int8_t input[%d];
  static int32_t output[5];
  return tiny_init(context, arena, sizeof arena) | tiny_run(context, input, output);
}
"""


@pytest.fixture(scope="module")
def library() -> Library:
    return lowered(residual_graph(3, name="tiny"), load_target("host"))


def write(library: Library, folder: Path) -> Path:
    path = folder / "libtiny.a"
    path.write_bytes(archive(library.objects))
    source = MAIN % (library.graph.arena_bytes, library.graph.values[library.graph.inputs[0]].elements)
    (folder / "main.c").write_text(source)
    return path


def test_ar_lists_the_objects_in_order_and_gives_them_back(library: Library, tmp_path: Path) -> None:
    path = write(library, tmp_path)
    listed = subprocess.run(["ar", "t", path], capture_output=True, text=True, check=True).stdout.split()
    assert listed == [name for name, _ in library.objects]
    subprocess.run(["ar", "x", path], cwd=tmp_path, check=True)
    assert all((tmp_path / name).read_bytes() == image for name, image in library.objects)


def test_the_index_leads_from_every_symbol_to_its_object(library: Library, tmp_path: Path) -> None:
    index = subprocess.run(["nm", "-s", write(library, tmp_path)], capture_output=True, text=True, check=True).stdout
    for name, image in library.objects:
        for symbol in defined_symbols(image):
            assert f"{symbol} in {name}" in index


def test_objects_of_odd_size_are_padded() -> None:
    object_ = bytes(lowered(residual_graph(3), load_target("host")).objects[0][1])
    odd = [("a.o", object_ + b"\0" * (1 - len(object_) % 2)), ("b.o", object_)]
    assert len(archive(odd)) % 2 == 0


def test_a_host_program_links_with_the_archive_and_runs(library: Library, tmp_path: Path) -> None:
    path = write(library, tmp_path)
    subprocess.run(["cc", "main.c", path.name, "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"]).returncode == 0


@pytest.mark.device
@pytest.mark.parametrize("name", ["cortex_m4", "cortex_m7", "cortex_m33", "cortex_m55", "cortex_a53"])
def test_a_firmware_links_with_the_archive_without_a_warning(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    if shutil.which(target.compiler) is None:
        pytest.skip(f"no {target.compiler}; run `make tools`")
    path = write(lowered(residual_graph(3, name="tiny"), target), tmp_path)
    memory = str(files("qkd.targets") / "runtime" / "memory.c")  # in place of a C library, which may not be installed
    flags = ["-nostdlib", "-Wl,--entry=main", "-Wl,--no-warn-rwx-segments"]
    bare = [memory, *flags] if target.kind == "cortex_m" else []
    command = [target.compiler, *target.cflags, "main.c", path.name, "-o", "main", "-Wl,--fatal-warnings", *bare]
    linked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert linked.returncode == 0, linked.stderr
    assert np.fromfile(tmp_path / "main", np.uint8, 4).tobytes() == b"\x7fELF"
