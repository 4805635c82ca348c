"""Runners: what comes back from each device, what is counted, and how a model that misbehaves is reported."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_graphs import RandomGraph, random_inputs, residual_graph
from qkd.errors import InvariantError, ToolError
from qkd.graph import reference
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.proof.verification import verify
from qkd.targets import load_target, target_names
from qkd.targets.running import emulation, harness
from qkd.targets.running.counting import plugin
from qkd.targets.running.runners import open_runner, run_on
from tests.support.stub_library import device_or_skip, portable_library, stub_graph, stub_library

EMULATED = [name for name in target_names() if load_target(name).kind != "host"]
CORTEX_M = [name for name in target_names() if load_target(name).kind == "cortex_m"]
ONE_OF_EACH_KIND = ["cortex_a53", "cortex_m4"]

pytestmark = pytest.mark.device

INPUTS = random_inputs(stub_graph(), 3)


@pytest.mark.parametrize("name", target_names())
def test_a_device_returns_outputs_and_layers_in_the_order_of_the_inputs(name: str) -> None:
    run = run_on(stub_library(device_or_skip(name)), INPUTS, trace=True)
    assert run.layers is not None
    np.testing.assert_array_equal(run.outputs.reshape(INPUTS.shape), INPUTS)
    assert [*run.layers] == ["max_0.y", "max_1.y"]
    for layer in run.layers.values():
        np.testing.assert_array_equal(layer, INPUTS)


@pytest.mark.parametrize("name", target_names())
def test_a_network_with_every_operator_computes_what_the_reference_means(name: str) -> None:
    graph = PlanMemory()(residual_graph(seed=3))
    library = portable_library(device_or_skip(name), graph)
    with open_runner(library) as runner:
        proof = verify(library, random_inputs(graph, 5), runner)
    assert proof.elements > 5000
    assert proof.differing == 0, proof.first_difference


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_int32_outputs_keep_their_sign(name: str) -> None:
    graph = PlanMemory()(residual_graph(seed=1))
    inputs = random_inputs(graph, 4)
    outputs = run_on(portable_library(device_or_skip(name), graph), inputs).outputs
    assert outputs.dtype == np.int32
    assert outputs.min() < 0
    np.testing.assert_array_equal(outputs, reference.run(graph, inputs)[graph.outputs[0]])


def test_more_inputs_than_one_file_holds_take_several_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "FILE_BYTES", 400)  # two samples
    inputs = random_inputs(stub_graph(), 7)
    run = run_on(stub_library(device_or_skip("cortex_m4")), inputs, trace=True)
    assert run.layers is not None
    np.testing.assert_array_equal(run.outputs.reshape(inputs.shape), inputs)
    np.testing.assert_array_equal(run.layers["max_0.y"], inputs)


def test_without_trace_and_profile_nothing_is_made_up() -> None:
    run = run_on(stub_library(device_or_skip("cortex_m4")), INPUTS)
    assert run.layers is run.instructions is run.layer_instructions is run.executed is run.image is None


def test_the_host_cannot_count_and_says_none() -> None:
    run = run_on(stub_library(device_or_skip("host")), INPUTS, profile=True)
    assert run.instructions is run.layer_instructions is run.stack_bytes is None


@pytest.mark.parametrize("name", EMULATED)
def test_instruction_counts_repeat_exactly(name: str) -> None:
    with open_runner(stub_library(device_or_skip(name))) as runner:
        first, second = (runner(INPUTS, profile=True) for _ in range(2))
    assert first.instructions == second.instructions
    assert first.layer_instructions == second.layer_instructions
    assert first.executed == second.executed


@pytest.mark.parametrize("name", EMULATED)
def test_a_thousand_instructions_more_count_as_a_thousand_more_in_their_layer(name: str) -> None:
    target = device_or_skip(name)
    few = run_on(stub_library(target, '__asm__ volatile("nop");'), INPUTS, profile=True)
    many = run_on(stub_library(target, '__asm__ volatile(".rept 1001\\n\\tnop\\n\\t.endr");'), INPUTS, profile=True)
    assert few.instructions is not None
    assert few.layer_instructions is not None
    assert many.instructions == few.instructions + 1000
    assert many.layer_instructions == {**few.layer_instructions, "max_1": few.layer_instructions["max_1"] + 1000}


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_layers_add_up_to_the_whole_but_for_the_calls_between_them(name: str) -> None:
    graph = PlanMemory()(residual_graph(seed=2))
    run = run_on(portable_library(device_or_skip(name), graph), random_inputs(graph, 1), profile=True)
    assert run.instructions is not None
    assert run.layer_instructions is not None
    between_layers = run.instructions - sum(run.layer_instructions.values())
    assert 0 <= between_layers < 20 * len(run.layer_instructions)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_counting_by_callbacks_as_newer_emulators_need_it_gives_the_same_numbers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_runner(stub_library(device_or_skip(name))) as runner:
        inline = runner(INPUTS, profile=True)
        monkeypatch.setattr(emulation, "plugin", lambda: f"{plugin()},inline=off")
        assert runner(INPUTS, profile=True).executed == inline.executed


@pytest.mark.parametrize("name", EMULATED)
def test_the_measured_stack_holds_a_frame_of_known_size(name: str) -> None:
    target = device_or_skip(name)
    touch_all = "volatile uint8_t frame[4096]; for (int i = 0; i < 4096; i++) frame[i] = 1;"
    flat = run_on(stub_library(target), INPUTS).stack_bytes
    deep = run_on(stub_library(target, touch_all), INPUTS).stack_bytes
    assert flat is not None
    assert deep is not None
    assert 0 < flat < 256
    assert 4096 <= deep - flat < 4096 + 128


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_stack_deeper_than_what_is_measured_is_an_error(name: str) -> None:
    touch_end = "volatile uint8_t frame[70000]; frame[0] = 1; for (int i = 0; i < 69999; i++) frame[i + 1] = frame[i];"
    with pytest.raises(InvariantError, match="more than 64 KiB of stack"):
        run_on(stub_library(device_or_skip(name), touch_end), INPUTS)


@pytest.mark.parametrize("name", CORTEX_M)
def test_a_fault_is_reported_with_the_place_where_it_happened(name: str) -> None:
    with pytest.raises(ToolError, match=r"status 99(?s:.)*fault, exception 0x00000003 at pc 0x[0-9a-f]{8}, cfsr"):
        run_on(stub_library(device_or_skip(name), "__builtin_trap();"), INPUTS)


def test_a_signal_under_linux_is_reported() -> None:
    with pytest.raises(ToolError, match="cortex_a53 failed"):
        run_on(stub_library(device_or_skip("cortex_a53"), "*(volatile int *)16 = 1;"), INPUTS)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_hung_emulator_is_ended_and_reported(name: str) -> None:
    with pytest.raises(ToolError, match="did not end within 1 s"):
        run_on(stub_library(device_or_skip(name), 'for (;;) __asm__ volatile("");'), INPUTS, limit_s=1)


@pytest.mark.parametrize("name", ["host", *ONE_OF_EACH_KIND])
@pytest.mark.parametrize("place", ["STUB_ARENA_BYTES", "-1"])
def test_a_write_outside_the_arena_is_caught(name: str, place: str) -> None:
    with pytest.raises(InvariantError, match="wrote outside its arena"):
        run_on(stub_library(device_or_skip(name), f"((volatile uint8_t *)context->arena)[{place}] = 1;"), INPUTS)


def test_a_write_behind_the_output_is_caught() -> None:
    library = stub_library(device_or_skip("cortex_m4"), "((volatile int8_t *)output)[STUB_OUTPUT_COUNT] = 1;")
    with pytest.raises(InvariantError, match="wrote outside its output"):
        run_on(library, INPUTS)


def test_an_arena_that_does_not_fit_the_board_is_reported_by_the_linker() -> None:
    target = device_or_skip("cortex_m4").model_copy(update={"sram_bytes": 4096})
    with pytest.raises(ToolError, match="SRAM is too small"):
        run_on(stub_library(target), INPUTS)


def test_a_missing_emulator_is_named_with_the_way_to_install_it() -> None:
    target = device_or_skip("cortex_m4")
    library = stub_library(target.model_copy(update={"emulator": ("qemu-system-nothing", *target.emulator[1:])}))
    with pytest.raises(ToolError, match=r"cortex_m4 needs qemu-system-nothing, .*apt install qemu-system-nothing"):
        run_on(library, INPUTS)


def test_a_missing_compiler_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    library = stub_library(device_or_skip("cortex_a53"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolError, match=r"aarch64-linux-gnu-gcc.*apt install gcc-aarch64-linux-gnu"):
        run_on(library, INPUTS)


def test_a_link_that_fails_shows_the_command_and_the_last_lines() -> None:
    library = stub_library(device_or_skip("cortex_m4"))
    object.__setattr__(library, "objects", (("stub.o", b"not an object"),))
    with pytest.raises(
        ToolError, match=r"linking 'stub' for cortex_m4 failed(?s:.)*command: arm-none-eabi-gcc(?s:.)*stub\.o"
    ):
        run_on(library, INPUTS)


@pytest.mark.parametrize("inputs", [INPUTS[:, :2], INPUTS.astype(np.int32), INPUTS[:0]])
def test_inputs_of_another_shape_or_type_are_refused(inputs: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"'stub' takes int8 of shape \(N, \*\(5, 3, 3\)\)"):
        run_on(stub_library(device_or_skip("host")), inputs)


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = stub_library(device_or_skip("cortex_m4"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_on(library, INPUTS, trace=True)
    assert os.listdir(tmp_path) == []


def test_a_model_of_one_layer_runs_although_its_plan_is_empty() -> None:
    g = RandomGraph(0, (2, 2, 3), name="single")
    graph = PlanMemory()(g.build(g.fully_connected(g.flatten(g.input), 3)))
    inputs = random_inputs(graph, 2)
    done = run_on(portable_library(device_or_skip("host"), graph), inputs)
    np.testing.assert_array_equal(done.outputs, reference.run(graph, inputs)[graph.outputs[0]])
