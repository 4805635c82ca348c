"""Portable C sources: equal to the reference in every layer, clean under strict compilers, repeatable."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.random_graphs import ACTIVATION_RANGES, WEIGHT_RANGES, RandomGraph, random_inputs, residual_graph
from qkd.bundle.portable_c import portable_sources
from qkd.graph.graph import Add, QuantGraph, Reshape, Value, accumulator_bound
from qkd.graph.reference import run
from qkd.passes.graph.plan_memory import PlanMemory
from tests.support.golden import ANOTHER
from tests.support.twin import STRICT, run_twin, write_sources

formats = st.sampled_from(sorted(WEIGHT_RANGES))
activations = st.sampled_from(sorted(ACTIVATION_RANGES))
sizes = st.integers(1, 3)


def planned(graph: QuantGraph) -> QuantGraph:
    """In place wherever the planner allows it, as that is the harder case."""
    return PlanMemory(in_place=frozenset(op.name for op in graph.ops if isinstance(op, Add)))(graph)


def assert_equals_reference(graph: QuantGraph, inputs: NDArray[np.int8] | None = None) -> None:
    inputs = random_inputs(graph, 3) if inputs is None else inputs
    expected = run(graph, inputs)
    with TemporaryDirectory() as folder:
        twin = run_twin(Path(folder), graph, inputs)
    np.testing.assert_array_equal(twin.output, expected[graph.outputs[0]])
    assert twin.layers.keys() == graph.offsets.keys() - {graph.storage(graph.outputs[0])}
    for name, codes in twin.layers.items():
        np.testing.assert_array_equal(codes, expected[name], err_msg=name)


@st.composite
def layer_stacks(draw: st.DrawFn) -> QuantGraph:
    """Up to four layers with odd channels, rectangular kernels and asymmetric padding; ends in logits or in codes."""
    g = RandomGraph(draw(st.integers(0, 999)), (draw(st.integers(5, 9)), draw(st.integers(5, 9)), draw(sizes)),
                    draw(activations), name="stack")  # fmt: skip
    x = g.input
    for _ in range(draw(st.integers(1, 4))):
        height, width = g.values[x].shape[1:3]
        kernel = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
        options = {
            "stride": (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
            "padding": tuple(draw(st.integers(0, k - 1)) for k in (kernel[0], kernel[0], kernel[1], kernel[1])),
            "weight": draw(formats),
            "activation": draw(activations),
            "extreme": draw(st.booleans()),
        }
        kind = draw(st.sampled_from(["conv", "depthwise", "add", "max_pool", "average_pool"]))
        if kind == "conv":
            x = g.conv(x, draw(st.integers(1, 7)), kernel, **options)
        elif kind == "depthwise":
            x = g.depthwise(x, kernel, **options)
        elif kind == "add":
            x = g.add(x, x, draw(activations))
        else:
            x = g.max_pool(x, kernel, (1, 2)) if kind == "max_pool" else g.average_pool(x, kernel, draw(activations))
    return g.build(g.fully_connected(g.flatten(x), draw(sizes), draw(formats), draw(st.none() | activations)))


@given(layer_stacks())
@settings(max_examples=12, deadline=None)
def test_random_stacks_equal_the_reference_in_every_layer_without_undefined_behaviour(graph: QuantGraph) -> None:
    assert_equals_reference(planned(graph))


@pytest.mark.parametrize("weight", sorted(WEIGHT_RANGES))
@pytest.mark.parametrize("activation", ["u4", "u8"])
def test_a_residual_network_equals_the_reference_in_every_layer(weight: str, activation: str) -> None:
    assert_equals_reference(planned(residual_graph(1, weight, activation)))


def test_the_largest_accumulators_stay_inside_int32() -> None:
    """The input's signs are those of the first row of weights (or their opposite), so its sum reaches the bound."""
    g = RandomGraph(5, (1, 1, 300), "u8", name="extreme")
    x = g.conv(g.input, 3, (1, 1), weight="8", extreme=True)
    graph = planned(g.build(g.fully_connected(g.flatten(x), 4, "8", extreme=True)))
    row = graph.values["conv_0.w"].codes[0]
    inputs = np.stack([np.where(signs > 0, 127, -128) for signs in (row, -row)]).astype(np.int8)
    assert abs(int((inputs[1].astype(np.int64) * row).sum())) > 0.99 * accumulator_bound(row[None], -128, 127)
    assert_equals_reference(graph, inputs)


@pytest.mark.parametrize(("count", "bits"), [(4, 2), (9, 4), (20, 8)])
@pytest.mark.parametrize("of_channel", [False, True])
def test_indices_stay_packed_and_are_looked_up_where_a_weight_has_a_codebook(
    count: int, bits: int, of_channel: bool
) -> None:  # fmt: skip
    g = RandomGraph(3, (4, 4, 3), name="codebook")
    x = g.depthwise(g.conv(g.input, 4, (3, 3), weight="8"), (2, 2), weight="8")
    x = g.fully_connected(g.flatten(x), 5, "8", "s8")
    g.fully_connected(x, 3)
    rng = np.random.default_rng(0)
    for op in g.ops:
        if not isinstance(op, Reshape):
            old = g.values[op.weight]  # type: ignore[union-attr]
            codebook = rng.integers(-9, 10, (old.shape[0], count) if of_channel else count).astype(np.int8)
            indices = rng.integers(0, count, old.shape).astype(np.int8)
            g.values[old.name] = replace(old, data=indices, codebook=codebook, qmin=-127, qmax=127)
    graph = planned(g.build(g.ops[-1].output))
    sources = portable_sources("codebook", graph)
    assert f"conv2d_t{bits}(" in sources["codebook.c"]
    assert "weight_w" not in sources["codebook_kernels.c"]
    assert_equals_reference(graph)


def test_one_layer_needs_no_arena_and_still_runs() -> None:
    g = RandomGraph(0, (2, 2, 3), name="single")
    assert_equals_reference(planned(g.build(g.fully_connected(g.flatten(g.input), 3))))


def test_a_reshape_at_the_end_writes_to_the_caller() -> None:
    g = RandomGraph(0, (4, 4, 3), name="tail")
    assert_equals_reference(planned(g.build(g.flatten(g.conv(g.input, 2, (3, 3))))))


@pytest.mark.device
@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("arm-none-eabi-gcc", ("-mcpu=cortex-m4", "-mthumb")),
        ("arm-none-eabi-gcc", ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard")),
        ("aarch64-linux-gnu-gcc", ("-mcpu=cortex-a53",)),
    ],
)
def test_the_sources_compile_without_a_warning(compiler: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is missing; install it with apt install gcc-{compiler.removesuffix('-gcc')}")
    sources = write_sources(tmp_path, planned(residual_graph()))
    subprocess.run([compiler, *STRICT, "-O2", *flags, "-c", *map(str, sources)], cwd=tmp_path, check=True)


def test_constants_go_where_the_macro_puts_them(tmp_path: Path) -> None:
    graph = planned(residual_graph())
    write_sources(tmp_path, graph)
    macro = '-DRANDOM_CONSTANT=__attribute__((section(".ext_flash")))'
    subprocess.run(["gcc", "-std=c99", macro, "-c", "random_weights.c"], cwd=tmp_path, check=True)
    sections = subprocess.run(["objdump", "-h", "random_weights.o"], cwd=tmp_path, capture_output=True, check=True)
    (ext_flash,) = [line.split() for line in sections.stdout.decode().splitlines() if ".ext_flash" in line]
    assert int(ext_flash[2], 16) >= sum(v.elements * v.packed_bits // 8 for v in constants(graph))


def constants(graph: QuantGraph) -> list[Value]:
    return [value for value in graph.values.values() if value.data is not None]


def test_nothing_of_floating_point_heap_or_library_is_called(tmp_path: Path) -> None:
    sources = write_sources(tmp_path, planned(residual_graph()))
    subprocess.run(["gcc", "-std=c99", "-O2", "-c", *map(str, sources)], cwd=tmp_path, check=True)
    objects = sorted(map(str, tmp_path.glob("*.o")))
    subprocess.run(["ld", "-r", *objects, "-o", "all.o"], cwd=tmp_path, check=True)
    undefined = subprocess.run(["nm", "-u", "all.o"], cwd=tmp_path, capture_output=True, check=True)
    assert undefined.stdout.decode().replace("_GLOBAL_OFFSET_TABLE_", "").split() in ([], ["U"])


def test_only_kernels_that_the_model_calls_are_written() -> None:
    g = RandomGraph(0, (2, 2, 3), name="small")
    sources = portable_sources("small", planned(g.build(g.fully_connected(g.flatten(g.input), 3, "2"))))
    assert "small_logits_w2" in sources["small_kernels.c"]
    for absent in ("conv2d", "depthwise", "pool", "_add", "w4", "w8", "clamp"):
        assert absent not in sources["small_kernels.c"]


def test_two_models_link_into_one_firmware(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sources(tmp_path, planned(residual_graph(name=name)))
    subprocess.run(["gcc", "-std=c99", "-c", *map(str, tmp_path.glob("*.c"))], cwd=tmp_path, check=True)
    subprocess.run(["ld", "-r", *map(str, tmp_path.glob("*.o")), "-o", "all.o"], cwd=tmp_path, check=True)


def test_the_sources_are_the_golden_ones(golden: Callable[[str, str], str]) -> None:
    for file, text in portable_sources("golden", planned(residual_graph(name="golden"))).items():
        assert text == golden(file, text), f"{file} is {ANOTHER}"


def test_another_process_writes_the_same_bytes() -> None:
    """Hash seeds differ between processes: a set that leaks into the text would show here."""
    program = (
        "from benchmarks.random_graphs import residual_graph; from qkd.passes.graph.plan_memory import PlanMemory;"
        "from qkd.bundle.portable_c import portable_sources;"
        "print(*portable_sources('random', PlanMemory()(residual_graph())).values(), sep='', end='')"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert runs[0].decode() == "".join(portable_sources("random", PlanMemory()(residual_graph())).values())
