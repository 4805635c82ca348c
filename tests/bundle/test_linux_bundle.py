"""What a Linux bundle holds besides: a shared library and a Python module over it, which compute what was proved."""

import ast
import importlib.util
import platform
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks.lowering import lowered
from benchmarks.random_graphs import RandomGraph, random_inputs, residual_graph
from qkd.bundle.bundle import BundleFacts, write_bundle
from qkd.bundle.manifest import check_bundle
from qkd.graph.graph import QParams, QuantGraph
from qkd.graph.reference import run_in_batches
from qkd.lower.lower import Library
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.targets.running.shared_library import link_shared_library, shared_library_bytes
from tests.support.stub_library import device_or_skip, portable_library

pytestmark = pytest.mark.device

FACTS = BundleFacts("W4A8")
GOLDEN_COUNT = 3
DEBIAN_ARM64_ROOT = Path("/usr/aarch64-linux-gnu")


def of_images() -> QuantGraph:
    """A network whose input has the quantization of every student: code = pixel - 128, step 1/64."""
    graph = residual_graph(name="demo")
    entry = replace(graph.values[graph.inputs[0]], qparams=QParams((1 / 64,), 0))
    return replace(graph, values={**graph.values, entry.name: entry})


def of_codes(name: str = "codes") -> QuantGraph:
    """A network of one layer whose input has 4 bits and a step that is no pixel's."""
    g = RandomGraph(0, (4, 3, 2), "u4", name)
    return g.build(g.fully_connected(g.flatten(g.input), 3))


def written(library: Library, folder: Path) -> Path:
    inputs = random_inputs(library.graph, GOLDEN_COUNT)
    shared = shared_library_bytes(library)
    return write_bundle(folder, library, inputs, None, None, FACTS, shared_library=shared)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = lowered(of_images(), device_or_skip("host"))
    return written(library, tmp_path_factory.mktemp("linux") / "demo")


def imported(bundle: Path, name: str = "demo") -> ModuleType:
    """The bundle's Python package, under a name of its own for each bundle."""
    spec = importlib.util.spec_from_file_location(f"bundle_{name}", bundle / "python" / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo(bundle: Path) -> ModuleType:
    return imported(bundle)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    library = portable_library(device_or_skip("host"), PlanMemory()(of_codes()))
    return imported(written(library, tmp_path_factory.mktemp("codes") / "codes"), "codes")


def test_a_linux_bundle_holds_both_libraries_and_a_typed_package(bundle: Path) -> None:
    assert {"lib/libdemo.a", "lib/libdemo.so", "python/demo/__init__.py", "python/demo/py.typed",
            "selftest/selftest.py", "selftest/selftest.c"} < set(check_bundle(bundle).files)  # fmt: skip


def test_bare_metal_has_no_shared_library() -> None:
    assert shared_library_bytes(portable_library(device_or_skip("cortex_m4"), PlanMemory()(of_codes()))) is None


def test_the_self_test_in_python_passes_in_a_process_of_its_own(bundle: Path) -> None:
    done = subprocess.run([sys.executable, bundle / "selftest/selftest.py"], check=True, capture_output=True, text=True)
    assert done.stdout == "demo: 0 of 15 output elements differ from the reference\n"


def test_the_self_test_in_python_fails_for_one_wrong_element(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    expected = np.load(copy / "golden/outputs.npy")
    expected[1, 2] += 1
    np.save(copy / "golden/outputs.npy", expected)
    done = subprocess.run([sys.executable, copy / "selftest/selftest.py"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout[:20]) == (1, "demo: 1 of 15 output")


def test_the_module_computes_the_golden_outputs_in_this_process(bundle: Path, demo: ModuleType) -> None:
    outputs = demo.Model().run(np.load(bundle / "golden/inputs.npy"))
    expected = np.load(bundle / "golden/outputs.npy")
    assert outputs.dtype == expected.dtype
    assert np.count_nonzero(outputs != expected) == 0


def test_pixels_codes_and_real_values_are_the_same_images(demo: ModuleType) -> None:
    graph = of_images()
    pixels = np.random.default_rng(0).integers(0, 256, (4, *demo.INPUT_SHAPE), np.uint8)
    by_code = (pixels.astype(np.int16) - 128).astype(np.int8)
    model = demo.Model()
    expected = run_in_batches(graph, by_code)
    for images in (by_code, pixels, *((by_code / 64).astype(f) for f in (np.float16, np.float32, np.float64))):
        np.testing.assert_array_equal(model.run(images), expected)


def test_real_values_are_rounded_to_even_and_kept_in_range(codes: ModuleType) -> None:
    scale = codes.INPUT_SCALE
    real = np.zeros((1, 4, 3, 2))
    real.flat[:6] = [0.5 * scale, 1.5 * scale, 2.4 * scale, -3 * scale, 1e9, 15 * scale]
    assert codes.Model.encode(real).flat[:6].tolist() == [0, 2, 2, 0, 15, 15]


def test_outputs_become_real_values_by_their_scale(codes: ModuleType) -> None:
    graph = of_codes()
    scale = graph.values[graph.outputs[0]].qparams.scale[0]
    assert codes.Model.decode(np.array([[-2, 0, 3]], np.int32)).tolist() == [[-2 * scale, 0.0, 3 * scale]]


def test_any_memory_layout_is_taken_and_no_input_is_changed(demo: ModuleType) -> None:
    whole = random_inputs(of_images(), 6)
    whole.setflags(write=False)
    before, model = whole.copy(), demo.Model()
    np.testing.assert_array_equal(model.run(whole[::-2]), model.run(whole)[::-2])
    np.testing.assert_array_equal(model.run(np.asfortranarray(whole)), model.run(whole))
    np.testing.assert_array_equal(whole, before)
    assert model.run(whole[:0]).shape == (0, *demo.OUTPUT_SHAPE)


def test_another_shape_is_refused_with_the_right_one(demo: ModuleType) -> None:
    model = demo.Model()
    for shape in ((9, 7, 3), (2, 7, 9, 3), ()):
        with pytest.raises(ValueError, match=r"images have shape .*; demo takes \(N, 9, 7, 3\): one image is images"):
            model.run(np.zeros(shape, np.int8))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64])
def test_another_type_is_refused_with_the_right_ones(demo: ModuleType, dtype: type) -> None:
    with pytest.raises(TypeError, match="demo takes int8 codes, uint8 pixels, float16, float32 or float64 real values"):
        demo.Model().run(np.zeros((1, *demo.INPUT_SHAPE), dtype))


def test_pixels_are_refused_where_the_input_is_not_quantized_like_them(codes: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"images are uint8; codes takes int8 codes, float16, float32 or float64 real"):
        codes.Model().run(np.zeros((1, *codes.INPUT_SHAPE), np.uint8))


def test_codes_out_of_range_are_refused(codes: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"codes range over \[-1, 16\]; \[0, 15\] is allowed"):
        codes.Model().run(np.array([-1, 16] * 12, np.int8).reshape(1, 4, 3, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(demo: ModuleType, value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        demo.Model().run(np.full((1, *demo.INPUT_SHAPE), value))


def test_the_module_tells_what_it_loaded(bundle: Path, demo: ModuleType) -> None:
    info, manifest = demo.Model().info, check_bundle(bundle)
    assert (info.name, info.graph_sha256, info.macs) == (manifest.name, manifest.graph_sha256, manifest.macs)
    assert info.library_sha256 == manifest.files["lib/libdemo.so"]
    assert info.arena_bytes == manifest.sizes["arena"].size_bytes


def test_threads_may_share_a_model_or_have_one_each(demo: ModuleType) -> None:
    inputs = random_inputs(of_images(), 40)
    expected, shared = run_in_batches(of_images(), inputs), demo.Model()
    found: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        model = shared if number % 2 else demo.Model()
        found[number] = np.concatenate([model.run(inputs[i : i + 1]) for i in range(len(inputs))])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], expected) for number in range(4))


def test_a_missing_library_is_named_with_both_places(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle / "python", tmp_path / "python")
    with pytest.raises(FileNotFoundError, match=r"neither .*python/demo/libdemo\.so nor .*lib/libdemo\.so is there"):
        imported(tmp_path).Model()


def test_a_module_taken_out_of_the_bundle_finds_the_library_beside_it(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle / "python", tmp_path / "python")
    shutil.copy(bundle / "lib/libdemo.so", tmp_path / "python/demo")
    assert imported(tmp_path).Model().run(np.zeros((1, 9, 7, 3), np.int8)).shape == (1, 5)


def test_a_library_for_another_machine_is_refused(demo: ModuleType, tmp_path: Path) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("on AArch64 this library is the very model")
    foreign = link_shared_library(portable_library(device_or_skip("cortex_a53"), PlanMemory()(of_images())), tmp_path)
    with pytest.raises(OSError, match=r"libdemo\.so cannot be loaded: .*this machine is"):
        demo.Model(foreign)


def test_the_library_of_another_model_is_refused(demo: ModuleType, tmp_path: Path) -> None:
    target = device_or_skip("host")
    for name, message in (("demo", "this module is made for"), ("codes", "is not the library of demo")):
        (tmp_path / name).mkdir()
        other = link_shared_library(portable_library(target, PlanMemory()(of_codes(name))), tmp_path / name)
        with pytest.raises(ValueError, match=message):
            demo.Model(other)


def test_the_module_runs_on_python_3_9_with_numpy_alone(bundle: Path) -> None:
    tree = ast.parse((bundle / "python/demo/__init__.py").read_text(), feature_version=(3, 9))
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy"}


def test_the_generated_package_is_typed_and_tidy(bundle: Path) -> None:
    for command in (["ruff", "check", "--isolated", "--line-length=120", "--select=E,F,W,I,B,UP", "--ignore=B905"],
                    ["mypy", "--strict", "--no-incremental"]):  # fmt: skip
        subprocess.run([sys.executable, "-m", *command, bundle / "python/demo/__init__.py"], check=True)


@pytest.mark.parametrize("device", ["host", "cortex_a53"])
def test_a_c_program_linked_with_the_shared_library_gives_the_golden_outputs(device: str, tmp_path: Path) -> None:
    folder = written(lowered(of_images(), device_or_skip(device)), tmp_path / "demo")
    options = ["-DDEMO_SHARED=ON", *(["-DCMAKE_TOOLCHAIN_FILE=toolchain.cmake"] if device != "host" else [])]
    if shutil.which("cmake") is None or (device != "host" and not DEBIAN_ARM64_ROOT.exists()):
        pytest.skip("cmake or an AArch64 C library is missing: apt install cmake libc6-dev-arm64-cross")
    for command in (["cmake", "-S", ".", "-B", "build", *options], ["cmake", "--build", "build"]):
        subprocess.run(command, cwd=folder / "example", check=True, capture_output=True)
    done = subprocess.run(
        ["ctest", "--verbose"], cwd=folder / "example/build", check=True, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "QEMU_LD_PREFIX": str(DEBIAN_ARM64_ROOT)},
    )  # fmt: skip
    assert "demo: 0 of 15 output elements differ" in done.stdout
    program = (folder / "example/build/demo_selftest").read_bytes()
    assert b"libdemo.so" in program, "the program names the shared library it needs"
