"""AArch64 kernels equal the reference on every core, whichever is chosen, and their proofs hold at the limit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from benchmarks.random_graphs import ACTIVATION_RANGES, WEIGHT_RANGES, RandomGraph
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.targets import load_target
from qkd.targets.kernels import choose_kernels
from qkd.targets.kernels.armv8_a.chains import chains_fit_int16, longest_chains, split_into_chains, sum_fits_int16
from qkd.targets.kernels.armv8_a.depthwise import split_taps
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES
from qkd.targets.kernels.armv8_a.weights import channel_blocks, pack_vectors
from tests.support.device_checks import assert_device_equals_reference, every_kernel

CORES = ("cortex_a53", "cortex_a72", "cortex_a76", "armv8_6_i8mm")
SAME = (1, 1, 1, 1)
EMULATED = {"deadline": None, "phases": (Phase.explicit, Phase.reuse, Phase.generate), "max_examples": 3,
            "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}  # fmt: skip
PROOFS = settings(deadline=None, max_examples=60)

ACTIVATIONS = st.sampled_from(list(ACTIVATION_RANGES))
WEIGHTS = st.sampled_from(list(WEIGHT_RANGES))
CHANNELS = st.sampled_from([4, 7, 16, 20, 32])


@st.composite
def networks(draw: st.DrawFn) -> QuantGraph:
    """One layer of each kind after the other, in shapes that do and do not fill vectors and tiles."""
    shape = (draw(st.integers(3, 9)), draw(st.integers(3, 13)), draw(st.sampled_from([1, 3, 16])))
    g = RandomGraph(draw(st.integers(0, 2**16)), shape, draw(ACTIVATIONS))
    formats = {"weight": draw(WEIGHTS), "activation": draw(ACTIVATIONS), "extreme": draw(st.booleans())}
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    x = g.conv(g.input, draw(CHANNELS), kernel, stride=stride, padding=(*padding[:3], padding[3] + 1), **formats)
    x = g.depthwise(x, (3, draw(st.integers(1, 3))), padding=SAME, weight=draw(WEIGHTS), activation=draw(ACTIVATIONS))
    y = g.conv(x, g.values[x].shape[3], (1, 1), weight=draw(WEIGHTS), activation=draw(ACTIVATIONS))
    x = g.add(x, y, draw(ACTIVATIONS))
    height, width = g.values[x].shape[1:3]
    x = g.max_pool(x, (min(2, height), min(2, width)), (1, 1))
    x = g.average_pool(x, (1, g.values[x].shape[2]), draw(ACTIVATIONS))
    return g.build(g.fully_connected(g.flatten(x), draw(st.sampled_from([3, 5, 10, 16])), draw(WEIGHTS)))


@pytest.mark.device
@pytest.mark.parametrize("core", CORES)
@settings(**EMULATED)
@given(graph=networks(), data=st.data())
def test_every_layer_of_a_random_network_equals_the_reference_with_any_kernel(
    core: str, graph: QuantGraph, data: st.DataObject
) -> None:
    kernels = tuple(data.draw(st.sampled_from(every_kernel(graph, op, core))) for op in steps(graph))
    assert_device_equals_reference(graph, core, kernels)


@st.composite
def convolutions(draw: st.DrawFn, activation: str) -> QuantGraph:
    """A 3 x 3 convolution of stride 1 and one of stride 2 whose channels fill vectors: int16 wraps or just does not."""
    shape = (draw(st.integers(2, 7)), draw(st.integers(8, 19)), 16 * draw(st.integers(1, 2)))
    g = RandomGraph(draw(st.integers(0, 2**16)), shape, activation)
    weights = st.sampled_from(["ternary", "3", "4"])
    extreme, out = draw(st.booleans()), 16 * draw(st.integers(1, 3))
    x = g.conv(g.input, out, (3, 3), padding=SAME, weight=draw(weights), activation=activation, extreme=extreme)
    return g.build(g.conv(x, 32, (3, 3), stride=(2, 1), padding=(0, 1, 1, 1), weight=draw(weights), activation="u8"))


@pytest.mark.device
@pytest.mark.parametrize("core", ["cortex_a53", "cortex_a72"])
@settings(**EMULATED)
@given(data=st.data())
def test_wrapping_sums_of_int16_equal_the_reference(core: str, data: st.DataObject) -> None:
    graph = data.draw(convolutions(data.draw(st.sampled_from(["u4", "u5"]))))
    kernels = tuple(every_kernel(graph, op, core)[0] for op in graph.ops)
    assert kernels[0].variant.startswith("winograd")
    assert_device_equals_reference(graph, core, kernels)


@pytest.mark.device
@pytest.mark.parametrize("core", CORES)
def test_only_a_tiny_last_layer_of_a_residual_block_may_be_cheaper_by_the_generic_kernel(core: str) -> None:
    g = RandomGraph(1, (8, 8, 3), "s8")
    x = g.conv(g.input, 16, (3, 3), padding=SAME, weight="8", activation="u4")
    y = g.conv(x, 16, (3, 3), padding=SAME, weight="4", activation="s8")
    x = g.add(x, y, "u4")
    x = g.conv(x, 32, (1, 1), stride=(2, 2), weight="4", activation="u4")
    graph = g.build(g.fully_connected(g.flatten(g.average_pool(x, (4, 4), "u8")), 10))
    assert "generic" not in {k.variant for k in choose_kernels(graph, load_target(core))[:-1]}
    assert_device_equals_reference(graph, core)


def at_limit(shape: tuple[int, ...], out: int, weight: str, sums: int, source: str) -> QuantGraph:
    """A 1 x 1 convolution whose first channel's |w| add up to `sums`, all of one sign; the others are 0."""
    g = RandomGraph(3, shape, source)
    graph = g.build(g.conv(g.input, out, (1, 1), weight=weight, activation="s8"))
    [name] = [name for name, value in graph.values.items() if value.data is not None]
    value = graph.values[name]
    data = np.zeros(value.shape, np.int8).reshape(out, -1)
    data[0] = np.diff(np.minimum(np.arange(shape[-1] + 1) * value.qmax, sums))
    values = {**graph.values, name: replace(value, data=data.reshape(value.shape))}
    return replace(graph, values=values)


@pytest.mark.device
@pytest.mark.parametrize(("sums", "is_direct"), [(256, True), (257, False)])
def test_a_sum_at_the_limit_of_int16_is_exact_and_one_more_takes_a_wider_kernel(sums: int, is_direct: bool) -> None:
    graph = at_limit((2, 4, 64), 32, "4", sums, "s8")
    kernel = every_kernel(graph, graph.ops[0], "cortex_a72")[0]
    assert kernel.variant.startswith("direct_int16") == is_direct
    assert_device_equals_reference(graph, "cortex_a72", (kernel,))


@PROOFS
@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 100))
def test_chains_cover_every_chunk_once(segments: int, chunks: int, longest: int) -> None:
    covered = np.zeros((segments, chunks), int)
    for c in split_into_chains(segments, chunks, min(longest, segments * chunks)):
        covered[c.segment : c.segment + c.segments, c.chunk : c.chunk + c.chunks] += 1
        assert c.segments * c.chunks <= longest
    assert (covered == 1).all()


@PROOFS
@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([1, 7, 127]), st.integers(0, 2**16))
def test_no_lane_of_a_proved_chain_leaves_int16(segments: int, chunks: int, wmax: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-wmax, wmax + 1, (2, segments * chunks * VECTOR_BYTES)).astype(np.int8)
    chains = longest_chains(rows, 128, segments)
    assert chains is not None
    products = (np.abs(rows.astype(np.int64)) * 128).reshape(2, segments, chunks, 2, 8).sum(axis=3)
    for c in chains:
        part = products[:, c.segment : c.segment + c.segments, c.chunk : c.chunk + c.chunks]
        assert part.sum(axis=(1, 2)).max() < 2**15


def test_a_chain_of_int8_weights_at_their_limits_has_one_chunk_and_minus_128_has_none() -> None:
    rows = np.full((4, 64), 127, np.int8)
    chains = longest_chains(rows, 128, 1)
    assert chains is not None
    assert {c.chunks for c in chains} == {1}
    rows[0, 0] = rows[0, 8] = -128
    assert longest_chains(rows, 128, 1) is None
    assert not chains_fit_int16(rows, 128, 1, split_into_chains(1, 4, 1))


def test_a_whole_sum_fits_int16_up_to_its_last_number() -> None:
    rows = np.zeros((2, 300), np.int64)
    rows[1, :257] = -1
    assert sum_fits_int16(rows, 0, 127)  # -32639
    assert not sum_fits_int16(rows, 0, 128)
    assert sum_fits_int16(rows, -127, 127)
    assert not sum_fits_int16(rows, -128, 127), "257 * 128 is one more than int16 holds"


@PROOFS
@given(arrays.arrays(np.int64, (2, 40), elements=st.integers(-31, 31)), st.integers(-40, 0), st.integers(0, 40))
def test_a_sum_that_fits_is_exact_for_the_inputs_that_make_it_smallest_and_largest(
    rows: NDArray[np.int64], qmin: int, qmax: int
) -> None:
    extremes = [np.where(rows[0] > 0, high, low) for low, high in ((qmin, qmax), (qmax, qmin))]
    sums = [rows @ codes for codes in extremes]
    wrapped = [(rows.astype(np.int16) * codes.astype(np.int16)).sum(axis=1, dtype=np.int16) for codes in extremes]
    if sum_fits_int16(rows, qmin, qmax):
        assert np.array_equal(sums, wrapped)
    else:
        assert any(not -(2**15) <= rows[row] @ np.where(rows[row] > 0, *codes) < 2**15
                   for row in range(2) for codes in ((qmin, qmax), (qmax, qmin)))  # fmt: skip


@PROOFS
@given(arrays.arrays(np.int64, (4, 9), elements=st.integers(-127, 127)))
def test_runs_of_taps_fit_int16_and_cover_the_window(taps: NDArray[np.int64]) -> None:
    runs = split_taps(taps, 128)
    assert runs is not None
    assert sum(runs) == 9
    starts = np.cumsum((0, *runs[:-1]))
    assert (np.add.reduceat(np.abs(taps) * 128, starts, axis=1) < 2**15).all()


@PROOFS
@given(st.integers(4, 70), st.sampled_from([4, 8, 16]))
def test_blocks_of_channels_cover_all_and_stay_inside(channels: int, size: int) -> None:
    blocks = channel_blocks(max(channels, size), size)
    assert {c for block in blocks for c in block} == set(range(max(channels, size)))
    assert all(len(block) == size for block in blocks)


@PROOFS
@given(st.sampled_from([2, 4, 8]), st.integers(1, 9), st.integers(0, 2**16))
def test_packed_vectors_hold_every_weight_once(bits: int, groups: int, seed: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    vectors = np.random.default_rng(seed).integers(low, high, (2, groups, 3, VECTOR_BYTES)).astype(np.int8)
    packed = pack_vectors(vectors, bits)
    fields = [(packed.astype(np.int16) << (8 - bits * (f + 1))).astype(np.int8) >> (8 - bits) for f in range(8 // bits)]
    unpacked = np.stack(fields, axis=2).reshape(2, -1, 3, VECTOR_BYTES)
    assert np.array_equal(unpacked[:, :groups], vectors)
    assert not unpacked[:, groups:].any()
