"""The firmware folder: complete, repeatable, whole or absent, tamper-evident, and its self-test builds and runs."""

import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.random_graphs import random_inputs, residual_graph
from qkd.bundle.bundle import BundleFacts, bundle_files, write_bundle
from qkd.bundle.manifest import check_bundle, read_manifest
from qkd.errors import RecipeError, ToolError
from qkd.graph.graph import QuantGraph
from qkd.graph.reference import run_in_batches
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.recipe import parse_recipe
from qkd.targets import load_target
from qkd.targets.running.board import board_files
from tests.support.stub_library import device_or_skip, portable_library

if TYPE_CHECKING:
    from qkd.lower.lower import Library

FACTS = BundleFacts("W4A8", tool_versions={"tvm": "0.27"})


def planned_graph() -> QuantGraph:
    return PlanMemory()(residual_graph(name="demo"))


@pytest.fixture(scope="module")
def host_library() -> "Library":
    return portable_library(load_target("host"), planned_graph())


def host_bundle(folder: Path, library: "Library") -> Path:
    return write_bundle(folder, library, random_inputs(library.graph, 3), None, 9000, FACTS)


def selftest(bundle: Path, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Configure and build the example, then run it through CTest."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is missing; install it with apt install cmake")
    build = bundle / "example" / "build"
    for command in (["cmake", "-S", ".", "-B", "build", *options], ["cmake", "--build", "build"]):
        subprocess.run(command, cwd=bundle / "example", check=True, capture_output=True)
    return subprocess.run(["ctest", "--verbose"], cwd=build, check=False, capture_output=True, text=True)


def test_a_bundle_holds_what_a_firmware_engineer_needs(tmp_path: Path, host_library: "Library") -> None:
    manifest = check_bundle(host_bundle(tmp_path / "demo", host_library))
    assert set(manifest.files) == {
        "CMakeLists.txt", "LICENSE.md", "README.md", "include/demo.h", "lib/libdemo.a",
        "src/demo.c", "src/demo_kernels.c", "src/demo_kernels.h", "src/demo_weights.c", "src/demo_weights.h",
        "golden/demo_golden.c", "golden/demo_golden.h", "golden/inputs.npy", "golden/outputs.npy",
        "selftest/selftest.c", "selftest/print_stdio.c", "example/CMakeLists.txt",
    }  # fmt: skip


def test_the_manifest_tells_model_target_sizes_and_tools(tmp_path: Path, host_library: "Library") -> None:
    manifest = read_manifest(host_bundle(tmp_path / "demo", host_library))
    assert (manifest.name, manifest.bits, manifest.target.name) == ("demo", "W4A8", "host")
    assert manifest.graph_sha256 == host_library.graph.sha256()
    assert manifest.sizes["flash"].size_bytes == 9000
    assert (manifest.sizes["stack"].size_bytes, manifest.sizes["stack"].evidence) == (None, "not measured")
    assert manifest.tool_versions["tvm"] == "0.27"


def test_the_resolved_recipe_comes_back_from_the_manifest(tmp_path: Path, host_library: "Library") -> None:
    recipe = parse_recipe(
        {
            "name": "demo", "data": {"name": "digits", "validation": 100}, "teacher": {"model": "mlp"},
            "student": {"model": "mlp", "options": {"width": 8}}, "bits": ["W4A8"], "devices": ["host"],
            "passes": [{"name": "qat", "epochs": 1}],
        },
        "test",
    )  # fmt: skip
    facts = replace(FACTS, recipe=recipe)
    write_bundle(tmp_path / "demo", host_library, random_inputs(host_library.graph, 1), None, None, facts)
    assert read_manifest(tmp_path / "demo").recipe == recipe


def test_golden_vectors_are_the_references(tmp_path: Path, host_library: "Library") -> None:
    golden = host_bundle(tmp_path / "demo", host_library) / "golden"
    outputs = np.load(golden / "outputs.npy")
    assert outputs.dtype == np.int32
    np.testing.assert_array_equal(outputs, run_in_batches(host_library.graph, np.load(golden / "inputs.npy")))


def test_the_same_library_gives_the_same_bytes(host_library: "Library") -> None:
    inputs = random_inputs(host_library.graph, 2)
    first, second = (bundle_files(host_library, inputs, 64, None, FACTS, {}) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("sources", ["OFF", "ON"])
def test_the_example_passes_on_this_machine(sources: str, tmp_path: Path, host_library: "Library") -> None:
    done = selftest(host_bundle(tmp_path / "demo", host_library), (f"-DDEMO_FROM_SOURCES={sources}",))
    assert "demo: 0 of 15 output elements differ" in done.stdout
    assert done.returncode == 0


def test_the_self_test_fails_for_one_wrong_element(tmp_path: Path, host_library: "Library") -> None:
    bundle = host_bundle(tmp_path / "demo", host_library)
    expected = str(np.load(bundle / "golden" / "outputs.npy")[1, 2])
    source = bundle / "golden" / "demo_golden.c"
    source.write_text(source.read_text().replace(f" {expected},", f" {int(expected) + 1},"))
    done = selftest(bundle)
    assert "demo: 1 of 15 output elements differ" in done.stdout
    assert done.returncode != 0


def test_the_self_test_fails_for_the_golden_vectors_of_another_model(tmp_path: Path, host_library: "Library") -> None:
    bundle = host_bundle(tmp_path / "demo", host_library)
    header = bundle / "golden" / "demo_golden.h"
    header.write_text(header.read_text().replace(host_library.graph.sha256(), "0" * 64))
    assert "the golden vectors belong to another model" in selftest(bundle).stdout


@pytest.mark.device
@pytest.mark.parametrize(("device", "sources"), [("cortex_m4", "ON"), ("cortex_m55", "OFF"), ("cortex_a53", "OFF")])
def test_the_example_passes_in_the_emulator(device: str, sources: str, tmp_path: Path) -> None:
    target = device_or_skip(device)
    library = portable_library(target, planned_graph())
    bundle = write_bundle(
        tmp_path / "demo", library, random_inputs(library.graph, 2), 512, 9000, FACTS, board_files(target)
    )
    done = selftest(bundle, ("-DCMAKE_TOOLCHAIN_FILE=toolchain.cmake", f"-DDEMO_FROM_SOURCES={sources}"))
    assert "demo: 0 of 10 output elements differ" in done.stdout
    assert done.returncode == 0


@pytest.mark.device
@pytest.mark.parametrize("device", ["host", "cortex_m4"])
def test_the_library_that_tvm_made_passes_its_self_test(device: str, tmp_path: Path) -> None:
    target = device_or_skip(device)
    from qkd.lower.lower import lower
    from qkd.targets.kernels import choose_kernels

    graph = residual_graph(name="demo")
    kernels = choose_kernels(graph, target)
    in_place = frozenset(kernel.op for kernel in kernels if kernel.in_place)
    library = lower(PlanMemory({k.op: k.scratch_bytes for k in kernels}, in_place)(graph), target, kernels)
    bundle = write_bundle(
        tmp_path / "demo", library, random_inputs(graph, 2), None, library.flash_bytes, FACTS, board_files(target)
    )
    done = selftest(bundle, ("-DCMAKE_TOOLCHAIN_FILE=toolchain.cmake",) if device != "host" else ())
    assert "demo: 0 of 10 output elements differ" in done.stdout
    assert "libdemo.a" in (bundle / "example" / "build" / "CMakeFiles").joinpath(
        "demo_selftest.dir", "link.txt"
    ).read_text()  # fmt: skip


def test_the_self_test_compiles_without_a_warning(tmp_path: Path, host_library: "Library") -> None:
    bundle = host_bundle(tmp_path / "demo", host_library)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion", "-Iinclude", "-Igolden", "-c"]
    files = ["selftest/selftest.c", "selftest/print_stdio.c", "golden/demo_golden.c"]
    subprocess.run(["gcc", *flags, *files], cwd=bundle, check=True)


def test_changed_and_missing_files_are_named_together(tmp_path: Path, host_library: "Library") -> None:
    bundle = host_bundle(tmp_path / "demo", host_library)
    library = bundle / "lib" / "libdemo.a"
    library.write_bytes(library.read_bytes()[:-1] + b"?")
    (bundle / "include" / "demo.h").unlink()
    with pytest.raises(RecipeError) as caught:
        check_bundle(bundle)
    assert "2 of 17 files differ" in str(caught.value)
    assert "include/demo.h: missing" in str(caught.value)
    assert "lib/libdemo.a: changed" in str(caught.value)


def test_a_build_folder_inside_does_not_matter(tmp_path: Path, host_library: "Library") -> None:
    bundle = host_bundle(tmp_path / "demo", host_library)
    (bundle / "example" / "build").mkdir()
    check_bundle(bundle)


def test_a_manifest_with_an_unknown_key_is_refused(tmp_path: Path, host_library: "Library") -> None:
    path = host_bundle(tmp_path / "demo", host_library) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    with pytest.raises(RecipeError, match="extra"):
        read_manifest(path.parent)


def test_a_truncated_manifest_is_refused(tmp_path: Path, host_library: "Library") -> None:
    path = host_bundle(tmp_path / "demo", host_library) / "manifest.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RecipeError, match="has 1 fault:"):
        check_bundle(path.parent)


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is not a bundle"):
        check_bundle(tmp_path)


def test_a_full_disk_leaves_the_old_bundle_and_no_half_folder(
    tmp_path: Path, host_library: "Library", monkeypatch: pytest.MonkeyPatch
) -> None:
    host_bundle(tmp_path / "demo", host_library)
    write, written = Path.write_bytes, 0

    def fill_up(path: Path, content: bytes) -> int:
        nonlocal written
        written += 1
        if written == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(ToolError, match="the disk is full"):
        host_bundle(tmp_path / "demo", host_library)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    check_bundle(tmp_path / "demo")


def test_a_folder_with_other_files_is_not_overwritten(tmp_path: Path, host_library: "Library") -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RecipeError, match="would be lost"):
        host_bundle(tmp_path, host_library)
    assert (tmp_path / "thesis.txt").exists()


def test_a_self_test_of_nothing_is_refused(tmp_path: Path, host_library: "Library") -> None:
    nothing = random_inputs(host_library.graph, 0)
    with pytest.raises(RecipeError, match="at least one golden input"):
        write_bundle(tmp_path / "demo", host_library, nothing, None, None, FACTS)
