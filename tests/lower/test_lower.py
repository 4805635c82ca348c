"""Lowering: the library computes the graph layer by layer, is the same on every run, and holds what it says."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qkd.lower.lower
from benchmarks.lowering import lowered, planned
from benchmarks.random_graphs import RandomGraph, random_inputs, residual_graph
from qkd.bundle.archive import archive
from qkd.errors import InvariantError, RecipeError, UnsupportedOpError
from qkd.graph import reference
from qkd.graph.graph import QuantGraph
from qkd.lower.lower import Library, lower
from qkd.lower.objects import section_bytes, undefined_symbols
from qkd.targets import load_target, target_names
from qkd.targets.kernels import choose_kernels
from qkd.targets.running.runners import run_on
from qkd.tir.kernel import Kernel

HOST = load_target("host")


@pytest.fixture(scope="module")
def library() -> Library:
    return lowered(residual_graph(3, name="tiny"), HOST)


@pytest.mark.parametrize(("weight", "activation"), [("4", "u8"), ("ternary", "u4"), ("8", "s8")])
def test_every_layer_on_the_host_equals_the_reference(weight: str, activation: str) -> None:
    graph = residual_graph(5, weight, activation)
    inputs = random_inputs(graph, 10)
    expected = reference.run(graph, inputs)
    result = run_on(lowered(graph, HOST), inputs, trace=True)
    assert result.layers is not None
    assert len(result.layers) == 8  # the add is computed in its convolution
    assert all(np.array_equal(codes, expected[name]) for name, codes in result.layers.items())
    assert np.array_equal(result.outputs, expected[graph.outputs[0]])


def digest_of_libraries() -> str:
    names = ("host", "cortex_m4")
    libraries = (lowered(residual_graph(3), load_target(name)) for name in names)
    return hashlib.sha256(b"".join(archive(library.objects) for library in libraries)).hexdigest()


def test_another_process_makes_the_same_bytes() -> None:
    code = "from tests.lower.test_lower import digest_of_libraries; print(digest_of_libraries())"
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    other = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env={"PYTHONHASHSEED": "7"})
    assert other.stdout.strip() == digest_of_libraries()


@pytest.mark.parametrize("name", target_names())
def test_a_library_needs_nothing_but_copies(name: str) -> None:
    library = lowered(residual_graph(3), load_target(name))
    own = set(library.symbols)
    needed = {symbol for _, image in library.objects for symbol in undefined_symbols(image)} - own
    helpers = {"__aeabi_lmul", "__aeabi_memclr4"} if name == "cortex_m0plus" else set()  # no product of 64 bits there
    assert needed <= helpers | {"memcpy", "memset", "__aeabi_memcpy", "__aeabi_memset", "__aeabi_memclr"}


def test_layers_of_one_shape_share_one_function_with_other_constants() -> None:
    graph = RandomGraph(1, (5, 5, 4), name="twins")
    x = graph.input
    for _ in range(3):
        x = graph.conv(x, 4, (3, 3), padding=(1, 1, 1, 1), activation="s8")
    for index, op in enumerate(graph.ops):  # the shifts are immediates, so they must agree
        graph.ops[index] = replace(op, epilogue=graph.ops[0].epilogue)  # type: ignore[union-attr,arg-type,call-arg]
    built = graph.build(x)
    library = lowered(built, HOST)
    inputs = random_inputs(built, 3)
    assert set(library.symbols) == {"twins_0_conv_0"}
    assert len(library.objects) == 2
    outputs = run_on(library, inputs).outputs
    assert np.array_equal(outputs, reference.run(built, inputs)[x].reshape(3, -1))


def test_flash_is_the_sum_of_the_sections_of_all_objects(library: Library) -> None:
    sizes = [section_bytes(image) for _, image in library.objects]
    assert library.text_bytes == sum(text for text, _ in sizes)
    assert library.rodata_bytes == sum(rodata for _, rodata in sizes)
    constants = sum(array.nbytes for kernel in library.kernels for array in kernel.constants)
    assert constants < library.rodata_bytes < constants + 600
    assert library.flash_bytes == library.text_bytes + library.rodata_bytes


def test_kernels_of_another_graph_are_refused() -> None:
    graph = residual_graph(3)
    kernels = choose_kernels(graph, HOST)
    with pytest.raises(InvariantError, match="the graph needs"):
        lower(planned(graph, kernels), HOST, kernels[1:])


def test_an_operator_whose_result_nobody_reads_is_refused() -> None:
    graph = RandomGraph(0, (4, 4, 2))
    graph.conv(graph.input, 3, (1, 1))
    with pytest.raises(InvariantError, match="Relax left 1 kernel calls of 2"):
        lowered(graph.build(graph.conv(graph.input, 3, (1, 1))), HOST)


def test_a_call_that_relax_changed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    make = qkd.lower.lower._relax_module

    def with_other_constants(graph: QuantGraph, kernels: tuple[Kernel, ...], *rest: Any) -> Any:
        changed = [replace(kernel, constants=tuple(array + 1 for array in kernel.constants)) for kernel in kernels]
        return make(graph, changed, *rest)

    monkeypatch.setattr(qkd.lower.lower, "_relax_module", with_other_constants)
    with pytest.raises(InvariantError, match="Relax calls random_0_conv_0 for 'conv_0' with other arguments"):
        lowered(residual_graph(3), HOST)


def test_a_graph_without_a_memory_plan_is_refused() -> None:
    graph = residual_graph(3)
    with pytest.raises(InvariantError, match="no memory plan"):
        lower(graph, HOST, choose_kernels(graph, HOST))


def test_a_graph_that_ends_in_a_reshape_is_refused() -> None:
    graph = RandomGraph(0, (4, 4, 2))
    with pytest.raises(UnsupportedOpError, match="ends in a reshape"):
        lowered(graph.build(graph.flatten(graph.conv(graph.input, 3, (1, 1)))), HOST)


def test_a_name_that_c_does_not_take_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be a C prefix"):
        lowered(residual_graph(3, name="8bit-net"), HOST)


def test_a_scratch_and_a_reshape_pass_through_relax(library: Library) -> None:
    assert any(kernel.scratch_bytes for kernel in library.kernels)
    assert len(library.symbols) == len(library.graph.ops) - 1
