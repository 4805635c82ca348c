"""Estimated cycles: classes of instructions, straight lines, taken branches, pairs; and that the choice agrees."""

import pytest

from benchmarks.lowering import lowered
from benchmarks.random_graphs import RandomGraph, random_inputs
from qkd.proof.device_run import DeviceRun
from qkd.targets import load_target
from qkd.targets.kernels import choices
from qkd.targets.running.cycle_model import CORES, DIVIDE_CYCLES, Instruction, estimate_cycles, listing_cycles
from qkd.targets.running.runners import run_on
from tests.support.stub_library import device_or_skip


def listing(*lines: str, counts: tuple[int, ...] = ()) -> list[Instruction]:
    """Instructions from "mnemonic operands", executed once each unless `counts` says otherwise."""
    counts = counts or (1,) * len(lines)
    fields = [line.partition(" ") for line in lines]
    return [Instruction(2 * i, name, rest, counts[i]) for i, (name, _, rest) in enumerate(fields)]


@pytest.mark.parametrize(
    ("lines", "cycles"),
    [
        (("add r0, r1, r2",), 1),
        (("smlad r0, r1, r2, r3",), 1),
        (("udiv r0, r1, r2",), DIVIDE_CYCLES),
        (("ldr r0, [r1]",), 2),
        (("ldr r0, [r1]", "ldrb r2, [r3]", "ldrd r4, r5, [r6]"), 5),
        (("ldmia r0!, {r4, r5, r6}",), 4),
        (("str r0, [r1]", "strd r2, r3, [r4]"), 3),
        (("ldr r0, [r1]", "add r2, r2, r3", "ldr r4, [r1]"), 5),
        (("bx lr",), 2),
        (("pop {r4, pc}",), 4),
    ],
)
def test_a_cortex_m4_spends_the_cycles_of_the_class(lines: tuple[str, ...], cycles: int) -> None:
    assert listing_cycles(listing(*lines), CORES["cortex_m4"]) == cycles


def test_a_conditional_branch_costs_more_as_often_as_what_follows_was_not_executed() -> None:
    loop = listing("subs r0, #1", "bne.n 10", "bx lr", counts=(10, 10, 1))
    assert listing_cycles(loop, CORES["cortex_m4"]) == 10 + 10 + 9 + 2


@pytest.mark.parametrize(
    ("lines", "cycles"),
    [
        (("muls r0, r1",), 1),
        (("ldr r0, [r1]", "ldrb r2, [r3]"), 4),
        (("ldmia r0!, {r4, r5, r6}", "ldmia r0!, {r4, r5}"), 7),
        (("str r0, [r1]", "stmia r0!, {r4, r5}"), 5),
        (("bx lr",), 2),
    ],
)
def test_a_cortex_m0plus_overlaps_no_loads_and_no_stores(lines: tuple[str, ...], cycles: int) -> None:
    assert listing_cycles(listing(*lines), CORES["cortex_m0plus"]) == cycles


@pytest.mark.parametrize(
    ("lines", "cycles"),
    [
        (("add r0, r1, r2", "smlad r3, r4, r5, r3"), 1),
        (("add r0, r1, r2", "add r3, r0, r4"), 2),
        (("smlad r0, r1, r2, r0", "smlad r3, r4, r5, r3"), 2),
        (("ldr r0, [r1]", "ldr r2, [r3]"), 2),
        (("ldrd r0, r1, [r2]", "add r3, r4, r5"), 1),
        (("nop", "ldr r0, [r1]", "add r2, r0, r3"), 3),
    ],
)
def test_a_cortex_m7_starts_two_independent_neighbours_at_once(lines: tuple[str, ...], cycles: int) -> None:
    assert listing_cycles(listing(*lines), CORES["cortex_m7"]) == cycles


def test_a_core_without_a_model_and_a_run_without_counts_have_no_estimate() -> None:
    counted = DeviceRun(outputs=random_inputs(RandomGraph(0, (1, 1, 1)).build("input"), 1), executed={}, image=b"")
    assert estimate_cycles(counted, load_target("cortex_m55")) is None
    assert estimate_cycles(DeviceRun(outputs=counted.outputs), load_target("cortex_m4")) is None


@pytest.mark.device
@pytest.mark.parametrize(("shape", "weight"), [((16, 16, 16), "8"), ((8, 8, 64), "4"), ((16, 16, 16), "ternary")])
def test_what_the_choice_expects_is_within_a_tenth_of_the_estimate_from_counted_instructions(
    shape: tuple[int, int, int], weight: str
) -> None:
    target = device_or_skip("cortex_m4")
    g = RandomGraph(0, shape, "u8")
    graph = g.build(g.conv(g.input, 32, (3, 3), padding=(1, 1, 1, 1), weight=weight))
    op = graph.ops[0]
    [choice] = choices(graph, target)
    best = choice.allowed[0]
    run = run_on(lowered(graph, target, [best.make()]), random_inputs(graph, 1), profile=True)
    estimate = estimate_cycles(run, target)
    assert estimate is not None
    assert best.cycles == pytest.approx(estimate[op.name], rel=0.1)
