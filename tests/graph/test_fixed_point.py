"""The firmware's arithmetic: one rounding, no overflow, the same on NumPy and torch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkd.errors import UnsupportedOpError
from qkd.graph.fixed_point import (
    Requantize,
    add_rescaled,
    choose_add,
    choose_bias_add,
    choose_requantize,
    requantize,
)

scales = st.floats(1e-9, 4.0).flatmap(lambda s: st.sampled_from([s, -s]))
biases = st.floats(-4000.0, 4000.0)


def apply(rq: Requantize, acc: np.ndarray) -> np.ndarray:
    return requantize(acc, rq, np.array(rq.multiplier, np.int64), np.array(rq.offset, np.int64))


@given(scales, biases, st.integers(0, 2**18), st.sampled_from([0, -128]), st.integers(-(2**18), 2**18))
def test_requantize_is_within_one_code_of_the_real_product_and_exact_away_from_ties(
    scale: float, bias: float, bound: int, zero_point: int, acc: int
) -> None:
    acc = max(-bound, min(bound, acc))
    rq = choose_requantize(np.array([scale]), np.array([bias]), max(bound, 1), zero_point, -128, 127)
    real = acc * scale + bias + zero_point
    got = int(apply(rq, np.array([acc], np.int64))[0])
    # offset is rounded to 2**-shift codes, the multiplier to 31 bits: nearer to a tie than that, either side is right
    slack = 2.0**-rq.shift + abs(acc * scale) * 2.0**-29
    assert np.clip(np.floor(real + 0.5 - slack), -128, 127) <= got <= np.clip(np.floor(real + 0.5 + slack), -128, 127)


@given(scales, biases, st.integers(1, 2**20), st.integers(-(2**20), 2**20))
def test_every_intermediate_fits_the_registers_of_the_device(scale: float, bias: float, bound: int, acc: int) -> None:
    acc = max(-bound, min(bound, acc))
    try:
        rq = choose_requantize(np.array([scale]), np.array([bias]), bound, 0, -128, 127)
    except UnsupportedOpError:
        assert bound * abs(scale) > 2**10 or abs(bias) > 2**10  # thousands of codes beyond what can be stored
        return
    shifted = acc << rq.pre_shift
    high = (shifted * rq.multiplier[0]) >> 32
    assert -(2**31) <= shifted < 2**31
    assert -(2**31) <= high + rq.offset[0] < 2**31
    assert abs(rq.multiplier[0]) < 2**31


@given(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(-(2**31) + 1, 2**31 - 1), st.integers(1, 16), st.data())
def test_high_word_then_shift_equals_one_rounding_of_the_whole_product(
    x: int, m: int, shift: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(-(2**30) + 1, 2**30 - 1))
    assert (((x * m) >> 32) + offset) >> shift == (x * m + (offset << 32)) >> (32 + shift)


def test_a_channel_with_scale_zero_keeps_its_bias() -> None:
    rq = choose_requantize(np.array([0.0, 0.01]), np.array([37.0, 0.0]), 1000, 0, -128, 127)
    assert apply(rq, np.array([999, 999], np.int64)).tolist() == [37, 10]


def test_torch_and_numpy_share_one_definition() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    acc = rng.integers(-100_000, 100_000, (50, 8))
    rq = choose_requantize(rng.uniform(-1e-3, 1e-3, 8), rng.normal(0, 20, 8), 100_000, -128, -128, 127)
    in_torch = requantize(torch.from_numpy(acc), rq, torch.tensor(rq.multiplier), torch.tensor(rq.offset))
    assert in_torch.numpy().tolist() == apply(rq, acc).tolist()


@given(st.floats(0.001, 8.0), st.floats(0.001, 8.0), st.integers(-128, 127), st.integers(-128, 127))
def test_add_is_within_one_code_of_the_real_sum_and_stays_in_int32(sa: float, sb: float, a: int, b: int) -> None:
    p = choose_add(sa, sb, (0, -128, 0), -128, 127)
    total = a * p.multiplier_a + b * p.multiplier_b + p.offset
    assert -(2**31) <= total < 2**31
    real = a * sa + (b + 128) * sb
    assert abs(int(add_rescaled(np.int64(a), np.int64(b), p)) - np.clip(real, -128, 127)) <= 0.5 + 256 * 2.0**-p.shift


@given(st.floats(-1e5, 1e5), st.integers(1, 2**24), st.integers(-(2**24), 2**24))
def test_logits_keep_the_fraction_of_their_bias(bias: float, bound: int, acc: int) -> None:
    acc = max(-bound, min(bound, acc))
    p = choose_bias_add(np.array([bias]), bound)
    assert abs(((acc << p.pre_shift) + p.offset[0]) / 2**p.pre_shift - (acc + bias)) <= 0.5 / 2**p.pre_shift
    assert -(2**31) <= (acc << p.pre_shift) + p.offset[0] < 2**31


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(UnsupportedOpError, match="NaN or infinite"):
        choose_requantize(np.array([bad]), np.array([0.0]), 10, 0, -128, 127)


def test_an_impossible_output_step_is_refused_with_the_figures() -> None:
    with pytest.raises(UnsupportedOpError, match="output step is too small"):
        choose_requantize(np.array([1e9]), np.array([0.0]), 10**6, 0, -128, 127)
