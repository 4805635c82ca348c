"""Kernels that add the residual themselves equal convolution, then add, on every kind of core, over the addend too."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.lowering import kernels_of, lowered
from benchmarks.random_graphs import RandomGraph
from qkd.graph.graph import Conv2dAdd, QuantGraph
from qkd.passes.graph.fuse_adds import FuseAdds, fusable_adds, fuse_adds
from qkd.recipe import BudgetSpec
from qkd.targets import load_target
from qkd.targets.kernels import choose_kernels
from qkd.targets.kernels.fusing import adds_that_pay
from qkd.targets.planning import plan
from tests.support.device_checks import assert_device_equals_reference
from tests.support.kernel_strategies import ACTIVATIONS, CHANNELS, WEIGHTS, windows
from tests.support.stub_library import device_or_skip

SAME = (1, 1, 1, 1)
EMULATED = {"max_examples": 5, "deadline": None, "phases": (Phase.explicit, Phase.reuse, Phase.generate),
            "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}  # fmt: skip


@st.composite
def residual_blocks(draw: st.DrawFn) -> QuantGraph:
    """A convolution of any shape and a residual of its output's shape, made before it; a layer that reads the sum."""
    height, width, source = draw(st.integers(1, 9)), draw(st.integers(1, 13)), draw(ACTIVATIONS)
    g = RandomGraph(draw(st.integers(0, 2**16)), (height, width, draw(CHANNELS)), source, name="block")
    out, shape = draw(CHANNELS), draw(windows(height, width))
    x = g.conv(g.input, out, **shape, weight="8", activation=draw(ACTIVATIONS))
    if draw(st.booleans()):
        x = g.conv(x, out, (1, 1), weight="8", activation=draw(ACTIVATIONS))
    y = g.conv(g.input, out, **shape, weight=draw(WEIGHTS), activation=draw(ACTIVATIONS), extreme=draw(st.booleans()))
    total = g.add(*draw(st.permutations([x, y])), draw(ACTIVATIONS))
    return g.build(g.conv(total, 3, (1, 1), weight="4"))


@pytest.mark.device
@pytest.mark.parametrize("core", ["host", "cortex_m0plus", "cortex_m4", "cortex_m7", "cortex_m55", "cortex_a53"])
@settings(**EMULATED)
@given(graph=residual_blocks(), data=st.data())
def test_any_fused_kernel_equals_its_two_operators(core: str, graph: QuantGraph, data: st.DataObject) -> None:
    target, fused = load_target(core), fuse_adds(graph, fusable_adds(graph))
    kernels = list(choose_kernels(fused, target))
    number = next(i for i, op in enumerate(fused.ops) if isinstance(op, Conv2dAdd))
    kernels[number] = data.draw(st.sampled_from(kernels_of(fused, fused.ops[number], target)))
    assert kernels[number].variant.endswith("+add")
    assert_device_equals_reference(fused, core, kernels)


def resnet_block(weight: str = "4") -> QuantGraph:
    """16 channels at 8 × 32, an identity as the residual: the buffer between conv and add decides the arena."""
    g = RandomGraph(0, (8, 32, 3), name="block")
    x = g.conv(g.input, 16, (3, 3), padding=SAME, weight="8")
    y = g.conv(g.conv(x, 16, (3, 3), padding=SAME, weight=weight), 16, (3, 3), padding=SAME, weight=weight)
    return g.build(g.conv(g.add(x, y), 4, (1, 1)))


@pytest.mark.device
@pytest.mark.parametrize(("core", "weight"), [("cortex_m4", "4"), ("cortex_m4", "ternary"), ("cortex_m55", "4")])
def test_a_fused_add_takes_a_buffer_out_of_the_arena_and_stays_exact(core: str, weight: str) -> None:
    graph, target = resnet_block(weight), device_or_skip(core)
    fused = FuseAdds(adds_that_pay(graph, target))(graph)
    kernels = list(choose_kernels(fused, target))
    row_bytes = 32 * 16
    arena_bytes = [lowered(g, target, list(choose_kernels(g, target))).graph.arena_bytes or 0 for g in (graph, fused)]
    assert arena_bytes[0] - arena_bytes[1] >= 8 * row_bytes - row_bytes
    assert_device_equals_reference(fused, core, kernels)


def test_an_add_that_saves_neither_cycles_nor_arena_stays_apart() -> None:
    """On Cortex-M55 a fused add costs a copy of the addend, and the arena is decided elsewhere here."""
    g = RandomGraph(0, (8, 8, 16))
    x = g.conv(g.input, 16, (1, 1))
    total = g.add(x, g.conv(g.input, 16, (1, 1)))
    wide = g.build(g.conv(g.conv(total, 128, (1, 1)), 4, (1, 1)))
    assert adds_that_pay(wide, load_target("cortex_m55")) == frozenset()
    assert adds_that_pay(wide, load_target("cortex_m4")) == {"add_2"}


def test_the_driver_fuses_and_says_so_in_its_plan() -> None:
    planned = plan(resnet_block(), load_target("cortex_m4"), BudgetSpec())
    assert [kernel.op for kernel in planned.kernels][2] == "conv_2+add_3"
    assert planned.graph.sha256() == resnet_block().sha256()
    assert "conv_2.y" not in {buffer.name for buffer in planned.buffers()}
