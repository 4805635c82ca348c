"""Armv6-M kernels equal the reference on an emulated Cortex-M0, whichever is chosen, up to their limits."""

import re
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.lowering import kernels_of, lowered
from benchmarks.random_graphs import RandomGraph, random_inputs, residual_graph
from qkd.graph.fixed_point import choose_requantize, requantize
from qkd.graph.graph import QuantGraph, Reshape
from qkd.proof.verification import verify
from qkd.targets import load_target
from qkd.targets.kernels import choices, choose_kernels, offers
from qkd.targets.kernels.armv6_m.connected import Plan, packed_tiles
from qkd.targets.kernels.armv6_m.connected_ir import Tile
from qkd.targets.kernels.armv6_m.convolution import fits_half, grouped, packed_weights
from qkd.targets.kernels.armv6_m.requantize import accumulator_range, digit_requantize
from qkd.targets.kernels.armv6_m.rows import LOOKUPS, Multiply
from qkd.targets.kernels.candidate import Refused
from qkd.targets.running.cycle_model import estimate_cycles
from qkd.targets.running.image import build_image
from qkd.targets.running.runners import open_runner, run_on
from qkd.targets.running.toolchain import find_tool
from qkd.tir.kernel import Kernel
from tests.support.kernel_strategies import ACTIVATIONS, networks
from tests.support.stub_library import device_or_skip

CORE = "cortex_m0plus"
EMULATED = {"deadline": None, "phases": (Phase.explicit, Phase.reuse, Phase.generate),
            "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}  # fmt: skip


def every_kernel(graph: QuantGraph, layer: int = 0) -> list[Kernel]:
    """All kernels of an operator, the cheapest first, the generic one among them."""
    return kernels_of(graph, graph.ops[layer], load_target(CORE))


def assert_device_equals_reference(graph: QuantGraph, kernels: tuple[Kernel, ...]) -> None:
    library = lowered(graph, device_or_skip(CORE), kernels)
    entry = graph.values[graph.inputs[0]]
    corners = [np.full((1, *entry.shape[1:]), code, np.int8) for code in (entry.qmin, entry.qmax)]
    with open_runner(library) as runner:
        proof = verify(library, np.concatenate([*corners, *worst_inputs(graph), random_inputs(graph, 2)]), runner)
    assert proof.differing == 0, proof.first_difference


def worst_inputs(graph: QuantGraph) -> list[np.ndarray]:
    """Inputs that drive the first channel of a first layer of one pixel to both ends of its range."""
    weight = graph.values[graph.ops[0].weight] if hasattr(graph.ops[0], "weight") else None
    entry = graph.values[graph.inputs[0]]
    if weight is None or weight.elements // weight.shape[0] != entry.shape[-1]:
        return []
    signs = weight.codes.reshape(weight.shape[0], -1)[0]
    ends = [np.where(signs * side > 0, entry.qmax, entry.qmin).astype(np.int8) for side in (1, -1)]
    return [np.broadcast_to(end, (1, *entry.shape[1:])) for end in ends]


@pytest.mark.device
@settings(max_examples=5, **EMULATED)
@given(graph=networks(), data=st.data())
def test_every_layer_of_a_random_network_equals_the_reference_with_any_kernel(
    graph: QuantGraph, data: st.DataObject
) -> None:
    layers = [i for i, op in enumerate(graph.ops) if not isinstance(op, Reshape)]
    kernels = tuple(data.draw(st.sampled_from(every_kernel(graph, i))) for i in layers)
    assert_device_equals_reference(graph, kernels)


@st.composite
def suited_networks(draw: st.DrawFn) -> QuantGraph:
    """Convolutions wide enough for every number of lanes, and a depthwise one, at the edges of their shapes."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    shape = (draw(st.integers(4, 9)), draw(st.integers(8, 24)), draw(st.integers(1, 20)))
    g = RandomGraph(draw(st.integers(0, 2**16)), shape, draw(ACTIVATIONS))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    weight = draw(st.sampled_from(["ternary", "2", "4", "8"]))
    x = g.conv(g.input, draw(st.integers(1, 9)), kernel, stride=stride, padding=padding, weight=weight,
               activation=draw(ACTIVATIONS), extreme=draw(st.booleans()))  # fmt: skip
    height, width = g.values[x].shape[1:3]
    kernel = (draw(st.integers(1, min(5, height + 2))), draw(st.integers(1, min(4, width))))
    padding = (draw(st.integers(max(0, kernel[0] - height), 2)), draw(st.integers(0, 2)), draw(st.integers(0, 2)), 1)
    x = g.depthwise(x, kernel, stride=(draw(st.integers(1, 2)), draw(st.integers(1, 3))), padding=padding,
                    weight=draw(st.sampled_from(["2", "4", "8"])), activation=draw(ACTIVATIONS))  # fmt: skip
    return g.build(x)


@pytest.mark.device
@settings(max_examples=8, **EMULATED)
@given(graph=suited_networks(), data=st.data())
def test_lanes_of_any_number_equal_the_reference_at_the_edges_of_their_shapes(
    graph: QuantGraph, data: st.DataObject
) -> None:
    special = [[k for k in every_kernel(graph, i) if k.variant != "generic"] or every_kernel(graph, i) for i in (0, 1)]
    assert_device_equals_reference(graph, tuple(data.draw(st.sampled_from(kernels)) for kernels in special))


def one_layer(shape: tuple[int, ...], weight: str, out: int = 8) -> QuantGraph:
    """A layer of one pixel or none whose weights are all at their limits; in two channels they have one sign."""
    g = RandomGraph(3, shape, "s8")
    if len(shape) == 1:
        graph = g.build(g.fully_connected(g.input, out, weight, "s8", extreme=True))
    else:
        graph = g.build(g.conv(g.input, out, (1, 1), weight=weight, activation="s8", extreme=True))
    [value] = [value for value in graph.values.values() if value.data is not None]
    assert value.data is not None
    value.data[0], value.data[1] = value.qmin, value.qmax
    return graph


LIMITS = {
    "ternary lookup, the largest sum of int16": ((2, 8, 255), "ternary", "lookup_3x3_4x2_int16"),
    "ternary lookup, more": ((2, 8, 264), "ternary", "lookup_3x3_4x2_int32"),
    "ternary products, the largest sum of int16": ((2, 8, 255), "ternary", "multiply_w2_4x2_int16"),
    "ternary products, more": ((2, 8, 272), "ternary", "multiply_w2_4x2_int32"),
    "2-bit lookup, the largest sum of int16": ((2, 8, 127), "2", "lookup_4x2_4x2_int16"),
    "2-bit lookup, more": ((2, 8, 132), "2", "lookup_4x2_2x2_int32"),
    "4-bit products, the largest sum of int16": ((2, 8, 36), "4", "multiply_w4_5x2_int16"),
    "4-bit products, more": ((2, 8, 40), "4", "multiply_w4_4x2_int32"),
    "8-bit products of single lanes": ((2, 5, 600), "8", "multiply_w8_5_int32"),
    "pairs of channels, the largest sum of int16": ((36,), "4", "dot_w4_8_int16"),
    "pairs of channels, more": ((40,), "4", "dot_w4_8_int32"),
    "pairs of channels of 2 bits, more": ((300,), "2", "dot_w2_8_int32"),
}


@pytest.mark.device
@pytest.mark.parametrize("limit", LIMITS)
def test_worst_weights_and_inputs_are_exact_at_the_limit_of_a_proof_and_beyond_it_with_a_wider_kernel(
    limit: str,
) -> None:
    shape, weight, variant = LIMITS[limit]
    graph = one_layer(shape, weight)
    kernel = next(k for k in every_kernel(graph) if k.variant == variant)
    assert_device_equals_reference(graph, (kernel,))


def test_sums_that_may_leave_int16_are_not_offered_as_int16() -> None:
    variants = {k.variant for k in every_kernel(one_layer((2, 8, 258), "ternary"))}
    assert any(v.endswith("x2_int32") for v in variants)
    assert not any(v.endswith("_int16") for v in variants)


def test_eight_bit_weights_refuse_two_lanes_and_say_by_how_much() -> None:
    graph = one_layer((2, 8, 16), "8")
    refused = [offer for offer in offers(graph, graph.ops[0], load_target(CORE)) if isinstance(offer, Refused)]
    assert refused
    assert all("it must stay below 2**15" in offer.reason for offer in refused)


@given(st.integers(1, 400), st.sampled_from([(-128, 127), (0, 15), (-8, 7)]), st.integers(0, 99))
def test_the_range_of_an_accumulator_is_that_of_the_worst_input(width: int, limits: tuple[int, int], seed: int) -> None:
    g = RandomGraph(seed, (1, 1, width))
    rows = g.rng.integers(-7, 8, (3, width))
    low, high = accumulator_range(rows, *limits)
    assert np.array_equal(high, (np.where(rows > 0, limits[1], limits[0]) * rows).sum(axis=1).clip(0))
    assert np.array_equal(low, (np.where(rows > 0, limits[0], limits[1]) * rows).sum(axis=1).clip(max=0))
    entry = g.values[g.input]
    low, high = accumulator_range(rows, entry.qmin, entry.qmax)
    assert fits_half(rows, entry) == bool((low >= -(2**15)).all() and (high < 2**15).all())


@given(st.integers(1, 4000), st.floats(-3.0, 3.0), st.floats(-300, 300), st.integers(0, 99),
       st.sampled_from([(-128, 127), (0, 15), (-8, 7)]))  # fmt: skip
def test_a_few_digits_of_the_multiplier_give_every_code_of_the_definition(
    bound: int, magnitude: float, bias: float, seed: int, limits: tuple[int, int]
) -> None:
    scale = 10.0 ** (magnitude - 3) * np.random.default_rng(seed).uniform(-1, 1, 3)
    rq = choose_requantize(scale, np.full(3, bias), bound, 0, *limits)
    low, high = np.full(3, -bound), np.full(3, bound)
    steps = digit_requantize(rq, low, high)
    assert steps is not None
    acc = np.broadcast_to(np.arange(-bound, bound + 1), (3, 2 * bound + 1))
    expected = requantize(acc, rq, np.array(rq.multiplier)[:, None], np.array(rq.offset)[:, None])
    assert np.array_equal(steps.apply(acc), expected)


@given(st.integers(1, 2**22), st.integers(0, 999))
def test_digits_and_their_sums_fit_int32(bound: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(-1, 1, 4) * 200 / bound ** rng.uniform(0.5, 1)
    rq = choose_requantize(scale, rng.uniform(-200, 200, 4), bound, 0, -128, 127)
    steps = digit_requantize(rq, np.full(4, -bound), np.full(4, bound))
    assert steps is not None
    for acc in (-bound, bound):
        total = np.zeros(4, np.int64)
        for digit in steps.digits.T:
            assert np.abs(acc * digit).max() < 2**31
            total = (total >> steps.digit_bits) + acc * digit
            assert np.abs(total).max() < 2**31
        assert np.abs(total + steps.offset).max() < 2**31


@given(st.sampled_from([Multiply(8), Multiply(4), Multiply(2), *LOOKUPS]), st.integers(1, 9), st.integers(0, 99))
def test_packed_weights_hold_every_weight_once(scheme: object, channels: int, seed: int) -> None:
    low, high = (-scheme.zero, scheme.zero - 1) if isinstance(scheme, Multiply) else (scheme.lowest, 1)  # type: ignore[attr-defined]
    codes = np.random.default_rng(seed).integers(low, high + 1, (3, 2, 2, channels))
    units = grouped(codes, scheme.group)  # type: ignore[attr-defined]
    packed = packed_weights(units, scheme).astype(np.int64)  # type: ignore[arg-type]
    if isinstance(scheme, Multiply):
        digits = (packed[:, None] >> scheme.bits * np.arange(scheme.group) & (1 << scheme.bits) - 1) - scheme.zero
    else:
        fraction = (packed.reshape(-1, 3) << np.array([0, 8, 16])).sum(axis=1)
        entries = []
        for _ in range(scheme.codes_per_fraction):  # type: ignore[attr-defined]
            fraction = fraction * scheme.unit_entries  # type: ignore[attr-defined]
            entries.append(fraction >> 24)
            fraction = fraction & 0xFFFFFF
        entry = np.stack(entries, axis=1).ravel()[: units[..., 0].size]
        digits = entry[:, None] // scheme.levels ** np.arange(scheme.group) % scheme.levels + scheme.lowest  # type: ignore[attr-defined]
    assert np.array_equal(digits.ravel(), units.ravel())


@given(st.sampled_from([(8, 5), (4, 4), (4, 3), (2, 2), (2, 4)]), st.integers(8, 20), st.integers(1, 30))
def test_packed_tiles_hold_every_weight_of_their_channels(tile: tuple[int, int], outputs: int, inputs: int) -> None:
    plan = Plan(Tile(*tile), inputs, outputs, 1, False)
    codes = np.random.default_rng(inputs).integers(-plan.tile.zero, plan.tile.zero, (outputs, inputs))
    bits = plan.tile.bits
    packed = packed_tiles(codes, plan).view(np.uint8)
    assert len(packed) == plan.packed_bytes
    fields = (packed[:, None] >> bits * np.arange(8 // bits) & (1 << bits) - 1).reshape(-1, plan.tile.channels)
    first = np.sort(fields[: plan.padded_inputs].ravel())
    filled = np.pad(codes, ((0, 0), (0, plan.padded_inputs - inputs))) + plan.tile.zero
    assert np.array_equal(first, np.sort(filled[: plan.tile.channels].ravel()))


@pytest.mark.device
@pytest.mark.parametrize("weight", ["8", "4", "ternary"])
def test_only_instructions_of_armv6_m_stand_in_the_image(weight: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All of 16 bits but for a branch with link, barriers and moves of special registers."""
    target = device_or_skip(CORE)
    image = build_image(lowered(residual_graph(weight=weight), target), tmp_path_factory.mktemp("image"))
    text = subprocess.run([find_tool("arm-none-eabi-objdump"), "-d", str(image)], capture_output=True, text=True,
                          check=True).stdout  # fmt: skip
    wide = re.findall(r"^ +[0-9a-f]+:\t[0-9a-f]{4} [0-9a-f]{4} +\t(\S+)", text, re.MULTILINE)
    narrow = re.findall(r"^ +[0-9a-f]+:\t[0-9a-f]{4} +\t(\S+)", text, re.MULTILINE)
    assert set(wide) <= {"bl", "dmb", "dsb", "isb", "mrs", "msr"}
    assert not {"cbz", "cbnz", "it", "ite", "itt"} & set(narrow)
    assert "muls" in narrow


@pytest.mark.device
@pytest.mark.parametrize(("shape", "weight"), [((16, 16, 16), "8"), ((8, 8, 32), "4"), ((8, 16, 16), "ternary")])
def test_what_the_choice_expects_is_within_a_seventh_of_the_estimate_from_counted_instructions(
    shape: tuple[int, int, int], weight: str
) -> None:
    target = device_or_skip(CORE)
    g = RandomGraph(0, shape, "u8")
    graph = g.build(g.conv(g.input, 16, (3, 3), padding=(1, 1, 1, 1), weight=weight))
    best = choices(graph, target)[0].allowed[0]
    estimate = estimate_cycles(run_on(lowered(graph, target, [best.make()]), random_inputs(graph, 1), profile=True),
                               target)  # fmt: skip
    assert estimate is not None
    assert best.cycles == pytest.approx(estimate[graph.ops[0].name], rel=1 / 7)


def test_a_cap_on_the_scratch_takes_the_cheapest_kernel_below_it() -> None:
    g = RandomGraph(0, (8, 8, 64), "u8")
    graph = g.build(g.conv(g.input, 64, (3, 3), padding=(1, 1, 1, 1), weight="ternary"))
    caps = (None, 30_000, 600)
    variants = [choose_kernels(graph, load_target(CORE), cap)[0].variant for cap in caps]
    assert variants == ["lookup_3x3_4x2_int32", "multiply_w2_4x2_int32", "generic"]
