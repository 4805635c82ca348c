"""Cortex-M55's kernels equal the reference for every shape and width, in the emulator, and are safe where chosen."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.lowering import kernels_of, lowered
from benchmarks.random_graphs import random_inputs, residual_graph
from qkd.graph.fixed_point import BiasAdd, Requantize, choose_requantize, requantize
from qkd.graph.graph import FullyConnected, Op, QParams, QuantGraph, Reshape, Value
from qkd.graph.steps import steps
from qkd.proof.verification import verify
from qkd.targets import load_target
from qkd.targets.kernels import choices
from qkd.targets.kernels.armv8_1_m_mve.planes import Planes
from qkd.targets.kernels.armv8_1_m_mve.products import PassLayout, pack_passes
from qkd.targets.kernels.armv8_1_m_mve.results import finish_of, rescale
from qkd.targets.kernels.window import Window
from qkd.targets.running.runners import open_runner
from qkd.tir.kernel import Kernel
from tests.support.kernel_strategies import networks
from tests.support.stub_library import device_or_skip


@pytest.mark.device
@pytest.mark.slow
@settings(
    max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(graph=networks(), data=st.data())
def test_every_layer_of_a_random_network_equals_the_reference_with_any_kernel(
    graph: QuantGraph, data: st.DataObject
) -> None:
    kernels = tuple(data.draw(st.sampled_from(mve_kernels(graph, op))) for op in steps(graph))
    library = lowered(graph, device_or_skip("cortex_m55"), kernels)
    entry = graph.values[graph.inputs[0]]
    corners = [np.full((1, *entry.shape[1:]), code, np.int8) for code in (entry.qmin, entry.qmax)]
    with open_runner(library) as runner:
        proof = verify(library, np.concatenate([*corners, random_inputs(graph, 2)]), runner)
    assert proof.differing == 0, proof.first_difference


@pytest.mark.device
def test_the_largest_sums_that_packed_weights_allow_are_exact() -> None:
    graph = worst_case(149_796)
    library = lowered(graph, device_or_skip("cortex_m55"), first_mve_kernel(graph))
    inputs = np.stack([np.full(149_796, code, np.int8) for code in (-128, 127)])
    with open_runner(library) as runner:
        proof = verify(library, inputs, runner)
    assert library.kernels[0].variant == "mve_w4_1x4"
    assert proof.differing == 0, proof.first_difference


def first_mve_kernel(graph: QuantGraph) -> tuple[Kernel]:
    """Of a graph of one layer, the kernel with the smallest weights."""
    return (min(mve_kernels(graph, graph.ops[0]), key=lambda kernel: kernel.constants[0].nbytes),)


def mve_kernels(graph: QuantGraph, op: Op) -> list[Kernel]:
    """All kernels of an operator, the cheapest first; the generic one only where there is no other."""
    kernels = kernels_of(graph, op, load_target("cortex_m55"))
    return [kernel for kernel in kernels if kernel.variant.startswith("mve_")] or kernels


def test_larger_sums_take_a_byte_a_weight_and_the_choice_says_by_how_much_packed_ones_would_break_the_bound() -> None:
    [choice] = choices(worst_case(149_797), load_target("cortex_m55"))
    assert {c.variant for c in choice.allowed if c.variant != "generic"} == {"mve_w8_1x4", "mve_w8_1x2"}
    [refused] = choice.lines()
    assert refused == ("not mve_w4: the accumulator's bound times 2**4 is 2,147,489,792; it must stay below 2**31")


@pytest.mark.device
@pytest.mark.parametrize(("offset", "variant"), [(2**26 - 1, "mve_w4_1x4"), (2**26, "mve_w8_1x4")])
def test_an_offset_without_room_for_the_factor_of_packing_takes_a_byte_a_weight(offset: int, variant: str) -> None:
    epilogue = Requantize((2**30, -(2**30)), (offset, -offset), 0, 16, -128, 127)
    graph = worst_case(48, epilogue)
    library = lowered(graph, device_or_skip("cortex_m55"), first_mve_kernel(graph))
    with open_runner(library) as runner:
        proof = verify(library, random_inputs(graph, 5), runner)
    assert library.kernels[0].variant == variant
    assert proof.differing == 0, proof.first_difference


def worst_case(taps: int, epilogue: Requantize | BiasAdd = BiasAdd((-5, 9), 3)) -> QuantGraph:  # noqa: B008, it is frozen
    """One layer whose weights all have the largest magnitude: 128 * 7 * 16 * 149,797 is the first to leave int32."""
    data = np.full((2, taps), 7, np.int8) * np.array([[1], [-1]], np.int8)
    values = [
        Value("x", (1, taps), "int8", QParams((1.0,)), -128, 127),
        Value("w", (2, taps), "int8", QParams((1.0, 1.0)), -7, 7, data),
        Value("y", (1, 2), "int32", QParams((1.0,)), -(2**31), 2**31 - 1),
    ]
    if isinstance(epilogue, Requantize):
        values[2] = Value("y", (1, 2), "int8", QParams((1.0,)), -128, 127)
    op = FullyConnected("fc", "x", "w", "y", epilogue)
    return QuantGraph("worst", {value.name: value for value in values}, (op,), ("x",), ("y",))


def test_every_layer_of_a_residual_network_has_an_mve_kernel() -> None:
    graph = residual_graph()
    for op in graph.ops:
        if not isinstance(op, Reshape):
            assert mve_kernels(graph, op)[0].variant.startswith("mve_")


@given(
    bits=st.sampled_from([2, 4, 8]), width=st.sampled_from([2, 4]), channels=st.integers(1, 9), k=st.integers(1, 200)
)
def test_packing_keeps_every_weight_in_its_field(bits: int, width: int, channels: int, k: int) -> None:
    layout = PassLayout(bits, width, -(-k // 16))
    rows = np.random.default_rng(k).integers(-(1 << (bits - 1)), 1 << (bits - 1), (channels, k))
    packed = pack_passes(rows, layout)
    assert packed.shape == (-(-channels // 4) * 4 // width, layout.size_bytes)
    assert unpacked(packed, layout)[:channels, :k].tolist() == rows.tolist()


def unpacked(packed: np.ndarray, layout: PassLayout) -> np.ndarray:
    """Undo `pack_passes` one code at a time, by the words of its docstring."""
    rows = np.zeros((len(packed) * layout.width, layout.vectors * 16), np.int64)
    for number, parts in enumerate(packed.reshape(len(packed), -1, 16)):
        for channel in range(layout.width):
            for vector in range(layout.vectors):
                block, field = divmod(vector, layout.fields)
                word = block * layout.width + channel
                if block == layout.blocks:
                    place = field * layout.width + channel
                    word, field = layout.blocks * layout.width + place // layout.fields, place % layout.fields
                shift = 8 - layout.bits * (field + 1)
                codes = (parts[word].astype(np.int64) << shift + 56) >> 64 - layout.bits
                rows[number * layout.width + channel, vector * 16 : vector * 16 + 16] = codes
    return rows


@given(
    scale=st.floats(1e-6, 2.0), bias=st.floats(-300, 300), bound=st.integers(1, 2**22),
    scale_bits=st.sampled_from([0, 4, 6]), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_folding_the_factor_of_packing_changes_no_code(
    scale: float, bias: float, bound: int, scale_bits: int, seed: int
) -> None:
    rq = choose_requantize(np.array([scale / bound * 100]), np.array([bias]), bound, 3, -128, 127)
    folded = rescale(rq, 1, bound, scale_bits)
    if folded is None:
        assert bound << scale_bits >= 2**31 or abs(rq.offset[0]) << scale_bits >= 2**30
        return
    acc = np.random.default_rng(seed).integers(-bound, bound + 1, 200)
    multiplier, offset = folded.table[0, :, 0].astype(np.int64)
    shifted = (acc << scale_bits + folded.pre_shift) * multiplier >> 32
    codes = np.clip((shifted + offset) >> folded.shift, folded.qmin, folded.qmax)
    expected = requantize(acc, rq, np.array(rq.multiplier[0]), np.array(rq.offset[0]))
    assert np.abs(acc << scale_bits + folded.pre_shift).max() < 2**31
    assert codes.tolist() == expected.tolist()


def test_a_factor_that_could_leave_int32_is_refused() -> None:
    rq = Requantize((2**30,), (2**26,), 0, 16, -128, 127)
    assert rescale(rq, 1, 2**25 - 1, 4) is None  # the offset, 2**26 << 4
    assert rescale(Requantize((2**30,), (5,), 0, 16, -128, 127), 1, 2**27, 4) is None  # the accumulator
    assert rescale(Requantize((2**30,), (5,), 0, 16, -128, 127), 1, 2**27 - 1, 4) is not None
    assert finish_of(BiasAdd((0,), 0), 1, 2**27, 4) is None
    assert finish_of(BiasAdd((0,), 0), 1, 2**27 - 1, 4) is not None


def test_rows_too_wide_for_the_offsets_of_a_scatter_are_left_to_the_generic_kernel() -> None:
    assert Planes(Window(3, 1000, 8, 1, 998, (3, 3), (1, 1), (0, 0, 0, 0)), 0).can_scatter
    assert not Planes(Window(3, 2000, 8, 1, 1998, (3, 3), (1, 1), (0, 0, 0, 0)), 0).can_scatter
