"""DSP-extension kernels equal the reference on Cortex-M4, M7 and M33, whichever is chosen, up to their limits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.lowering import kernels_of, lowered
from benchmarks.random_graphs import RandomGraph, random_inputs
from qkd.graph.graph import Conv2d, FullyConnected, Op, QuantGraph
from qkd.graph.steps import steps
from qkd.proof.verification import verify
from qkd.targets import load_target
from qkd.targets.kernels import choices, choose_kernels
from qkd.targets.kernels.armv7e_m.lookup import pack_indices, safe_chunks, ternary_groups
from qkd.targets.kernels.armv7e_m.shared_lanes import ROTATIONS, SharedLanes
from qkd.targets.kernels.armv7e_m.weights import WeightFormat
from qkd.targets.kernels.bounds import fits_int16, fits_int32
from qkd.targets.kernels.thumb import tile_starts
from qkd.targets.running.runners import open_runner
from qkd.tir.kernel import Kernel
from tests.support.kernel_strategies import ACTIVATIONS, WEIGHTS, networks
from tests.support.stub_library import device_or_skip

CORES = ("cortex_m4", "cortex_m7", "cortex_m33")
EMULATED = {"deadline": None, "phases": (Phase.explicit, Phase.reuse, Phase.generate),
            "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}  # fmt: skip


def every_kernel(graph: QuantGraph, op: Op) -> list[Kernel]:
    """All kernels of an operator, the cheapest first, the generic one among them."""
    return kernels_of(graph, op, load_target("cortex_m4"))


def assert_device_equals_reference(graph: QuantGraph, core: str, kernels: tuple[Kernel, ...]) -> None:
    library = lowered(graph, device_or_skip(core), kernels)
    entry = graph.values[graph.inputs[0]]
    corners = [np.full((1, *entry.shape[1:]), code, np.int8) for code in (entry.qmin, entry.qmax)]
    with open_runner(library) as runner:
        proof = verify(library, np.concatenate([*corners, random_inputs(graph, 2)]), runner)
    assert proof.differing == 0, proof.first_difference


@pytest.mark.device
@pytest.mark.parametrize("core", CORES)
@settings(max_examples=6, **EMULATED)
@given(graph=networks(), data=st.data())
def test_every_layer_of_a_random_network_equals_the_reference_with_any_kernel(
    core: str, graph: QuantGraph, data: st.DataObject
) -> None:
    kernels = tuple(data.draw(st.sampled_from(every_kernel(graph, op))) for op in steps(graph))
    assert_device_equals_reference(graph, core, kernels)


@st.composite
def suited_networks(draw: st.DrawFn) -> QuantGraph:
    """A ternary convolution and a depthwise one in the shapes that the special kernels take, at their edges."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, kernel[0])), draw(st.integers(1, kernel[1])))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    shape = (draw(st.integers(4, 9)), draw(st.integers(kernel[1] + 3 * stride[1], 16)), draw(st.integers(1, 20)))
    source, between, extreme = draw(ACTIVATIONS), draw(ACTIVATIONS), draw(st.booleans())
    g = RandomGraph(draw(st.integers(0, 2**16)), shape, source)
    x = g.conv(g.input, 4 * draw(st.integers(1, 5)), kernel, stride=stride, padding=padding, weight="ternary",
               activation=between, extreme=extreme)  # fmt: skip
    height, width = g.values[x].shape[1:3]
    padding = (
        draw(st.integers(max(0, 4 - height), 4)),
        0,
        draw(st.integers(max(0, 5 - width), 5)),
        draw(st.integers(0, 2)),
    )
    x = g.depthwise(
        x, (3, draw(st.integers(1, 5))), padding=padding, weight=draw(WEIGHTS), activation=draw(ACTIVATIONS)
    )
    return g.build(x)


@pytest.mark.device
@pytest.mark.parametrize("core", CORES)
@settings(max_examples=5, **EMULATED)
@given(graph=suited_networks())
def test_lookup_and_paired_rows_equal_the_reference_at_the_edges_of_their_shapes(core: str, graph: QuantGraph) -> None:
    kernels = tuple(
        next(k for k in every_kernel(graph, op) if k.variant.startswith(variant))
        for op, variant in zip(graph.ops, ("lookup", "smlad_row_pairs"), strict=True)
    )
    assert_device_equals_reference(graph, core, kernels)


def one_layer(shape: tuple[int, ...], out: int, kernel: tuple[int, int], weight: str, source: str = "s8") -> QuantGraph:
    """A convolution whose weights are all at their limits; in two channels they have one sign."""
    g = RandomGraph(3, shape, source)
    graph = g.build(g.conv(g.input, out, kernel, weight=weight, activation="s8", extreme=True))
    [value] = [value for value in graph.values.values() if value.data is not None]
    assert value.data is not None
    value.data[0], value.data[1] = value.qmin, value.qmax
    return graph


LIMITS = {
    "4 bits, the largest sum that the scaled form allows": ((2, 2, 585), "4", "smlad_columns_w4_"),
    "4 bits, one channel more": ((2, 2, 586), "4", "smlad_columns_w4u_"),
    "ternary, the largest sum that the scaled form allows": ((2, 2, 1023), "ternary", "smlad_columns_w2_"),
    "ternary, one channel more": ((2, 2, 1024), "ternary", "smlad_columns_w2u_"),
    "lookup, the largest sum of int16": ((2, 2, 255), "ternary", "lookup_int16_1"),
    "lookup, one channel more": ((2, 2, 256), "ternary", "lookup_int32_2"),
}


@pytest.mark.device
@pytest.mark.parametrize("limit", LIMITS)
def test_sums_at_the_limit_of_a_proof_are_exact_and_the_next_channel_takes_a_wider_kernel(limit: str) -> None:
    shape, weight, variant = LIMITS[limit]
    graph = one_layer(shape, 4, (1, 1), weight)
    kernel = next(k for k in every_kernel(graph, graph.ops[0]) if k.variant.startswith(variant))
    assert_device_equals_reference(graph, "cortex_m4", (kernel,))


def test_scaled_weights_are_offered_only_while_every_sum_fits_int32() -> None:
    fits, exceeds = one_layer((2, 2, 585), 4, (1, 1), "4"), one_layer((2, 2, 586), 4, (1, 1), "4")
    scaled = [[k for k in every_kernel(g, g.ops[0]) if "_w4_" in k.variant] for g in (fits, exceeds)]
    assert scaled[0]
    assert not scaled[1]


@given(st.integers(1, 400), st.sampled_from([(-128, 127), (0, 15), (-8, 7)]))
def test_the_bounds_are_those_of_the_worst_input(width: int, limits: tuple[int, int]) -> None:
    g = RandomGraph(width, (1, 1, width), "s8")
    entry = replace(g.values[g.input], qmin=limits[0], qmax=limits[1])
    rows = g.rng.integers(-7, 8, (3, width))
    inputs = [np.where(rows * sign > 0, limits[1], limits[0]) for sign in (-1, 1)]
    worst = max(int(np.abs((codes * rows).sum(axis=1)).max()) for codes in inputs)
    assert not fits_int16(rows, entry) or worst < 2**15
    assert not fits_int32(rows, entry, 12) or worst << 12 < 2**31


@given(st.lists(st.integers(0, 26), min_size=1, max_size=40))
def test_packed_table_entries_come_back_as_digits_in_base_27(entries: list[int]) -> None:
    packed = pack_indices(np.array(entries)).astype(np.int64)[:-1].reshape(-1, 3)
    digits = []
    for low, middle, high in packed:
        fraction = low << 8 | middle << 16 | high << 24
        for _ in range(5):
            digits.append(fraction * 27 >> 32)
            fraction = fraction * 27 & 0xFFFFFFFF
    assert digits[: len(entries)] == entries
    assert len(packed) == -(-len(entries) // 5)


def test_a_window_row_is_cut_until_its_parts_fit_int16() -> None:
    graph = one_layer((4, 4, 128), 4, (3, 3), "ternary")
    op = graph.ops[0]
    assert isinstance(op, Conv2d)
    groups = ternary_groups(graph.values[op.weight].codes)
    assert safe_chunks(groups, graph.values[op.input]) == 3


@given(st.sampled_from([8, 4, 2]), st.booleans(), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_packed_weights_hold_every_weight_once(bits: int, top: bool, out: int, tile: int, seed: int) -> None:
    out = max(out, tile)
    limit = 1 << (bits - 1)
    rows = np.random.default_rng(seed).integers(-limit, limit, (out, 32))
    fmt = WeightFormat(bits, top)
    words = fmt.pack(rows, tile).astype(np.int64) & 0xFFFFFFFF
    fields = (words[..., None] >> bits * np.arange(32 // bits) & (1 << bits) - 1).reshape(len(words), -1)
    tiles = np.array([rows[start : start + tile] for start in tile_starts(out, tile)])
    expected = (tiles + fmt.zero & (1 << bits) - 1).reshape(len(words), -1)
    assert np.array_equal(np.sort(fields), np.sort(expected))


@given(st.integers(1, 50), st.integers(1, 8))
def test_tiles_cover_everything_and_stay_inside(count: int, size: int) -> None:
    size = min(size, count)
    starts = tile_starts(count, size)
    assert set().union(*(range(start, start + size) for start in starts)) == set(range(count))


def test_the_choice_is_the_cheapest_and_says_what_it_costs_beside_the_next() -> None:
    g = RandomGraph(0, (8, 8, 64), "u8")
    graph = g.build(g.conv(g.input, 64, (3, 3), padding=(1, 1, 1, 1), weight="ternary"))
    [choice] = choices(graph, load_target("cortex_m4"))
    best, second = choice.allowed[:2]
    assert best.variant == "lookup_int32_1"
    assert best.cycles == min(candidate.cycles for candidate in choice.allowed)
    why = choice.kernel().why
    assert f"estimated at {best.cycles:,} cycles" in why
    assert f"next {second.variant}: {second.cycles:,} cycles" in why
    assert "max|q| * sum|w| < 2**15" in why


def test_a_cap_on_the_scratch_takes_the_cheapest_kernel_below_it() -> None:
    g = RandomGraph(0, (8, 8, 64), "u8")
    graph = g.build(g.conv(g.input, 64, (3, 3), padding=(1, 1, 1, 1), weight="ternary"))
    target = load_target("cortex_m4")
    variants = [choose_kernels(graph, target, cap)[0].variant for cap in (None, 30_000, 600)]
    assert variants == ["lookup_int32_1", "smlad_rows_w2_2x2x6", "generic"]


def test_fully_connected_layers_take_four_channels_at_a_time() -> None:
    g = RandomGraph(0, (64,), "u8")
    graph = g.build(g.fully_connected(g.input, 10))
    op = graph.ops[0]
    assert isinstance(op, FullyConnected)
    assert every_kernel(graph, op)[0].variant.startswith("smlad_columns_w8_1x4")


@pytest.mark.device
@pytest.mark.parametrize(("channels", "runs"), [(16, 1), (20, 5), (36, 3)])
def test_lower_sums_of_shared_lanes_are_taken_out_before_the_worst_input_lets_them_run_over(
    channels: int, runs: int
) -> None:
    # (7 + 8) * 15 a tap: 18 taps stay below 2**12.
    graph = one_layer((2, 2, channels), 8, (1, 1), "4", "u4")
    kernel = next(k for k in every_kernel(graph, graph.ops[0]) if k.variant == "smlad_columns_w4x2_2x4x1")
    assert f"max q * sum(w + 8) < 2**12 in each of {runs} runs" in kernel.why
    assert_device_equals_reference(graph, "cortex_m4", (kernel,))


def test_activations_of_eight_bits_or_with_a_sign_share_no_lanes() -> None:
    for source in ("s8", "u8"):
        graph = one_layer((2, 2, 16), 8, (1, 1), "4", source)
        assert not [k for k in every_kernel(graph, graph.ops[0]) if "w4x2" in k.variant]


@given(st.sampled_from([4, 2]), st.integers(1, 3), st.integers(0, 99))
def test_a_rotation_and_a_mask_take_the_weights_of_two_channels_out_of_a_word(bits: int, tiles: int, seed: int) -> None:
    fmt, limit = SharedLanes(bits), 1 << (bits - 1)
    rows = np.random.default_rng(seed).integers(-limit, limit, (4 * tiles, 16))
    words = fmt.pack(rows, 4).astype(np.int64) & 0xFFFFFFFF
    rotations = np.array(ROTATIONS[bits])
    found = (words[..., None] >> rotations | words[..., None] << (32 - rotations)) & (fmt.mask & 0xFFFFFFFF)
    lanes = np.stack([found & 0xFFFF, found >> 16], axis=-1).reshape(tiles, 4, 2, 2, 2)  # quad, columns, half, lane
    lanes = lanes.transpose(0, 2, 1, 4, 3).reshape(2 * tiles, 16)  # half h, lane l is channel 2 l + h of its quad
    signed = lanes - (lanes >> 15 << 16)
    low = (signed & fmt.field_mask) - fmt.zero
    assert np.array_equal(np.stack([low, signed >> fmt.field_bits], axis=1).reshape(rows.shape), rows)
