"""Cycles by llvm-mca: how a layer is cut into blocks, what loops and branches cost, and that M55 has an estimate."""

import shutil

import pytest

from benchmarks.cycle_estimate import SIMULATIONS, Block, cut_blocks, estimate_cycles
from benchmarks.lowering import lowered
from benchmarks.random_graphs import RandomGraph, random_inputs
from qkd.targets import load_target
from qkd.targets.running.runners import run_on
from tests.support.stub_library import device_or_skip

M55 = SIMULATIONS["cortex_m55"]


def blocks(*lines: tuple[str, int]) -> list[Block]:
    """The blocks of a layer of instructions and their counts; what has count 0 was not executed."""
    text = {2 * i: line for i, (line, _) in enumerate(lines)}
    return list(cut_blocks("layer", {2 * i: n for i, (_, n) in enumerate(lines) if n}, text, M55))


def test_a_hardware_loop_costs_its_body_and_fills_the_pipeline_once_an_entry() -> None:
    found = blocks(
        ("dls lr, r0", 3), ("vldrw.u32 q0, [r1], #16", 30), ("vmlava.s8 r2, q0, q1", 30), ("le lr, 0x2", 30),
        ("bx lr", 3),
    )  # fmt: skip
    assert found == [
        Block("layer", ("nop",), 3),
        Block("layer", ("vldrw.u32 q0, [r1], #16", "vmlava.s8 r2, q0, q1"), 30, refills=3),
        Block("layer", ("nop",), 3, refills=3),
    ]


def test_a_tail_predicated_loop_is_one_too() -> None:
    assert [block.refills for block in blocks(("vadd.i8 q0, q0, q1", 8), ("letp lr, 0x0", 8), ("nop", 2))] == [2, 0]


def test_a_branch_fills_the_pipeline_as_often_as_what_follows_was_not_executed() -> None:
    assert [block.refills for block in blocks(("cmp r0, #1", 5), ("bne 0x9 ", 5), ("nop", 2))] == [3, 0]
    assert [block.refills for block in blocks(("b 0x9", 5), ("nop", 0), ("nop", 5))] == [5, 0]


def test_an_it_before_a_conditional_return_is_dropped_with_it_and_look_alikes_are_no_branches() -> None:
    assert blocks(("it ne", 4), ("bxne lr", 4), ("nop", 1))[0] == Block("layer", ("nop", "nop"), 4, refills=3)
    assert blocks(("bic r0, r1, #1", 2), ("csel r0, r1, r2, ne", 2), ("lsls r0, r1, #1", 2))[0].refills == 0


@pytest.mark.device
def test_a_convolution_on_m55_takes_more_than_a_cycle_an_instruction_and_the_whole_is_scaled() -> None:
    if not shutil.which("llvm-mca-19"):
        pytest.skip("llvm-mca-19 is missing; install llvm-19")
    target = device_or_skip("cortex_m55")
    g = RandomGraph(0, (8, 8, 16), "u8")
    graph = g.build(g.conv(g.input, 16, (3, 3), padding=(1, 1, 1, 1), weight="4"))
    run = run_on(lowered(graph, target), random_inputs(graph, 1), profile=True)
    found = estimate_cycles(run, load_target("cortex_m55"))
    assert run.instructions is not None
    assert 0.9 * run.instructions < found.covered_instructions <= run.instructions
    # A product keeps its pipe for two cycles and a hardware loop's end costs none: between 1 and 2 an instruction.
    assert found.covered_instructions < found.layers[graph.ops[0].name] < 2 * found.covered_instructions
    assert found.cycles >= found.layers[graph.ops[0].name]
