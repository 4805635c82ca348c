"""Exact integer Winograd: its ranges are tight, and what is proved is exact for the worst input, on cores too."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from benchmarks.lowering import lowered
from benchmarks.random_graphs import RandomGraph
from qkd.graph.graph import QParams, QuantGraph, Value
from qkd.proof.verification import verify
from qkd.targets.kernels.armv8_a.winograd_proof import (
    INT8_MAX,
    INT16_MAX,
    Proof,
    centre_of,
    prove,
    ranges_of_channels,
    transform_weights,
)
from qkd.targets.running.runners import open_runner
from tests.support.device_checks import every_kernel
from tests.support.stub_library import device_or_skip

B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]])
U5 = Value("x", (1, 8, 8, 16), "int8", QParams((1.0,)), 0, 31)
SAME = (1, 1, 1, 1)
NUMBERS = 11
"""What int16 must hold: y, X of two columns, M of two rows."""

WEIGHTS = arrays.arrays(
    np.int64, st.tuples(st.just(2), st.just(3), st.just(3), st.sampled_from([4, 8])), elements=st.integers(-7, 7)
)
PROOFS = settings(deadline=None, max_examples=60)


def int16(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """What remains in a register of 16 bits."""
    return array.astype(np.int16).astype(np.int64)


def outputs_1d(m: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """SHADD, ADD; SHSUB, SUB."""
    return [int16(m[0] + (m[1] + m[2] >> 1)), int16((m[1] - m[2] >> 1) - m[3])]


def winograd(proof: Proof, patch: NDArray[np.int64]) -> NDArray[np.int64]:
    """Four outputs of each channel, (O, 2, 2), as the kernel computes them: modulo 2**16, groups in int32."""
    v = np.einsum("ia,abc,jb->ijc", B_T, patch - proof.centre, B_T).reshape(16, -1)
    total = np.zeros((proof.transformed.shape[1], 2, 2), np.int64) + proof.totals[:, None, None]
    for group in range(proof.groups):
        part = slice(group * proof.group_channels, (group + 1) * proof.group_channels)
        m = int16(np.einsum("poc,pc->po", proof.transformed[:, :, part], v[:, part])).reshape(4, 4, -1)
        x = [outputs_1d([m[i, j] for i in range(4)]) for j in range(4)]
        total += np.stack([outputs_1d([x[j][r] for j in range(4)]) for r in range(2)]).transpose(2, 0, 1)
    return total


def direct(weight: NDArray[np.int64], patch: NDArray[np.int64]) -> NDArray[np.int64]:
    windows = np.lib.stride_tricks.sliding_window_view(patch, (3, 3), axis=(0, 1))  # (2, 2, C, 3, 3)
    return np.einsum("yxcab,oabc->oyx", windows, weight)


def coefficients(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """How the numbers that int16 must hold depend on the 4 x 4 codes of a tile: (11, O, 4, 4, C)."""
    of_y = np.pad(weight, ((0, 0), (0, 1), (0, 1), (0, 0)))
    of_x = [np.pad(np.einsum("b,oabc,k->oakc", G[j], weight, B_T[j]), ((0, 0), (0, 1), (0, 0), (0, 0))) for j in (1, 2)]
    of_m = [np.einsum("a,b,oabc,h,k->ohkc", G[i], G[j], weight, B_T[i], B_T[j]) for i in (1, 2) for j in range(4)]
    return np.stack([of_y, *of_x, *of_m])


def worst_patches(weight: NDArray[np.int64], entry: Value) -> list[NDArray[np.int64]]:
    """The tiles that make each of the numbers of the first channel largest and smallest."""
    found = coefficients(weight)[:, 0]
    pairs = itertools.product(found, ((entry.qmin, entry.qmax), (entry.qmax, entry.qmin)))
    return [np.where(number > 0, high, low) for number, (low, high) in pairs]


@PROOFS
@given(weight=WEIGHTS, qmax=st.sampled_from([15, 31, 63]), limit=st.sampled_from([INT8_MAX, INT16_MAX]))
def test_a_proved_winograd_is_exact_for_the_worst_inputs(weight: NDArray[np.int64], qmax: int, limit: int) -> None:
    entry = replace(U5, qmax=qmax)
    proof = prove(weight, entry, 4, limit)
    assert proof is not None, "a group of four channels of int4 always fits"
    for patch in worst_patches(weight, entry):
        v = np.einsum("ia,abc,jb->ijc", B_T, patch - proof.centre, B_T)
        assert -limit - 1 <= v.min() <= v.max() <= limit
        assert np.array_equal(winograd(proof, patch), direct(weight, patch))


@PROOFS
@given(weight=WEIGHTS, seed=st.integers(0, 2**16))
def test_a_proved_winograd_is_exact_for_signed_codes_of_eight_bits_in_int16(
    weight: NDArray[np.int64], seed: int
) -> None:
    entry = replace(U5, qmin=-128, qmax=127)
    proof = prove(weight.clip(-1, 1), entry, 4, INT16_MAX)
    assert proof is not None
    patches = [*worst_patches(weight.clip(-1, 1), entry), np.random.default_rng(seed).choice([-128, 127], (4, 4, 8))]
    for patch in patches:
        codes = patch[:, :, : weight.shape[3]]
        assert np.array_equal(winograd(proof, codes), direct(weight.clip(-1, 1), codes))


@PROOFS
@given(arrays.arrays(np.int64, (1, 3, 3, 1), elements=st.integers(-7, 7)), st.integers(-9, 0), st.integers(1, 40))
def test_the_ranges_are_those_of_all_inputs_and_no_wider(weight: NDArray[np.int64], qmin: int, qmax: int) -> None:
    corners = np.array(list(itertools.product((qmin, qmax), repeat=8)))
    least, most = ranges_of_channels(weight, qmin, qmax)
    for number, (low, high) in zip(coefficients(weight)[:, 0, :, :, 0], zip(least, most, strict=True), strict=True):
        upper, lower = number.reshape(2, 8)  # the extremes of a sum are those of its halves
        sums = [corners @ half for half in (upper, lower)]
        assert (low, high) == (sum(s.min() for s in sums), sum(s.max() for s in sums))
    assert len(least) == NUMBERS


def test_one_group_less_than_proved_is_wrong_for_some_input() -> None:
    weight = np.random.default_rng(1).integers(5, 8, (2, 3, 3, 16))
    proof = prove(weight, U5, 4, INT8_MAX)
    assert proof is not None
    assert (proof.groups, proof.centre) == (2, 16)
    careless = replace(proof, group_channels=16)
    patches = worst_patches(weight, U5)
    assert all(np.array_equal(winograd(proof, patch), direct(weight, patch)) for patch in patches)
    assert not all(np.array_equal(winograd(careless, patch), direct(weight, patch)) for patch in patches)


def test_the_limit_of_int16_is_met_exactly() -> None:
    """M of row 1 and column 1 is four codes times all weights: here 124 * 264 = 32,736, and 32,860 with one more."""
    weight = np.zeros((1, 3, 3, 64), np.int64)
    weight.flat[:264] = 1
    proof = prove(weight, U5, 4, INT8_MAX)
    assert proof is not None
    assert (proof.groups, proof.centre) == (1, 0)
    weight.flat[264] = 1
    proof = prove(weight, U5, 4, INT8_MAX)
    assert proof is not None
    assert (proof.groups, proof.centre, proof.totals.tolist()) == (1, 16, [16 * 265])


def test_codes_of_six_bits_fit_int8_once_centred_and_of_eight_do_not() -> None:
    weight = np.ones((16, 3, 3, 16), np.int64)
    proof = prove(weight, replace(U5, qmax=63), 4, INT8_MAX)
    assert proof is not None
    assert proof.centre == centre_of(replace(U5, qmax=63)) == 32
    assert prove(weight, replace(U5, qmin=-128, qmax=127), 4, INT8_MAX) is None
    assert prove(15 * weight, U5, 4, INT8_MAX) is None, "nine weights of 15 add up to more than int8 holds"


def test_the_transform_of_the_weights_is_the_papers_with_doubled_middle_rows() -> None:
    g = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]]) / np.array([1, 2, 2, 1])[:, None]
    doubled = np.diag([1, 2, 2, 1]) @ g
    kernel = np.random.default_rng(0).integers(-7, 8, (3, 3))
    transformed = transform_weights(kernel.reshape(1, 3, 3, 1)).reshape(4, 4)
    assert np.array_equal(transformed, doubled @ kernel @ doubled.T)


def convolution(weight: NDArray[np.int64], activation: str = "u5") -> QuantGraph:
    """A 3 x 3 convolution of stride 1 with the given weights."""
    out, channels = weight.shape[0], weight.shape[3]
    g = RandomGraph(2, (6, 8, channels), activation)
    graph = g.build(g.conv(g.input, out, (3, 3), padding=SAME, weight="4", activation="u8"))
    [name] = [name for name, value in graph.values.items() if value.data is not None]
    return replace(graph, values={**graph.values, name: replace(graph.values[name], data=weight.astype(np.int8))})


@pytest.mark.device
@pytest.mark.parametrize("core", ["cortex_a53", "cortex_a72"])
@pytest.mark.parametrize(("least", "channels", "groups"), [(-7, 16, 1), (-7, 32, 1), (-3, 32, 2), (5, 32, 4)])
def test_a_core_computes_the_reference_for_the_worst_inputs_with_any_number_of_groups(
    core: str, least: int, channels: int, groups: int
) -> None:
    weight = np.random.default_rng(0).integers(least, 8, (16, 3, 3, channels))
    graph = convolution(weight)
    kernel = every_kernel(graph, graph.ops[0], core)[0]
    assert kernel.variant == f"winograd_{groups}"
    library = lowered(graph, device_or_skip(core), (kernel,))
    tiles = np.stack(worst_patches(weight, U5)).astype(np.int8)
    with open_runner(library) as runner:
        proof = verify(library, np.tile(tiles, (1, 2, 2, 1))[:, :6], runner)
    assert proof.differing == 0, proof.first_difference
