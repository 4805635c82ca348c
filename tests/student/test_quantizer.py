"""The quantizer: values, the paper's gradients at and around the clip edges, initial steps."""

import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from qkd.student.quantizer import (
    CodeRange,
    LearnedStep,
    activation_range,
    fake_quantize,
    initial_activation_step,
    initial_weight_step,
    least_squares_step,
    positive,
    substitute_codes,
    ternary_step,
    to_codes,
    weight_range,
)
from qkd.train.compiling import FUSION

RANGES = [weight_range(b) for b in (2, 3, 4, 8)] + [weight_range("ternary"), CodeRange(0, 15), CodeRange(0, 255)]


def paper_gradients(v: float, codes: CodeRange) -> tuple[float, float]:
    """Equations 3 and 5 of LSQ: (gradient to x, gradient to s) of one value."""
    if v <= codes.qmin:
        return 0.0, float(codes.qmin)
    if v >= codes.qmax:
        return 0.0, float(codes.qmax)
    return 1.0, round(v) - v


@pytest.mark.parametrize("codes", RANGES, ids=str)
def test_gradients_equal_the_paper_at_inside_and_outside_of_the_clip_edges(codes: CodeRange) -> None:
    eighth = 0.125  # a power of two, so that v is exact
    middle = 0.3125
    for v in (
        codes.qmin - 1.0,
        codes.qmin,
        codes.qmin + eighth,
        middle,
        codes.qmax - eighth,
        codes.qmax,
        codes.qmax + 2.0,
    ):
        x = torch.tensor([v * 0.25], requires_grad=True)
        s = torch.tensor(0.25, requires_grad=True)
        fake_quantize(x, s, codes).sum().backward()
        expected = paper_gradients(v, codes)
        assert x.grad is not None
        assert s.grad is not None
        assert (x.grad.item(), s.grad.item()) == pytest.approx(expected, abs=1e-6)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30),
    st.floats(2**-10, 64, width=32),
    st.sampled_from(RANGES),
)
def test_codes_are_whole_numbers_in_range_and_equal_rounding(
    values: list[float], step: float, codes: CodeRange
) -> None:
    x, s = torch.tensor(values), torch.tensor(step)
    found = to_codes(x, s, codes).numpy()
    np.testing.assert_array_equal(found, np.clip(np.round(x.numpy() / s.numpy()), codes.qmin, codes.qmax))


@given(st.floats(-1e6, 1e6, width=32), st.floats(2**-20, 1e3, width=32))
def test_a_step_is_positive_whatever_its_parameter_is(raw: float, floor: float) -> None:
    assert positive(torch.tensor(raw), torch.tensor(floor)).item() > 0


@given(st.floats(2**-10, 1e3, width=32))
def test_a_healthy_step_is_its_parameter_to_the_last_bit(value: float) -> None:
    learned = LearnedStep(weight_range(4), (), 9)
    learned.start_from(torch.tensor(value))
    assert learned.step().item() == learned.raw.item() == torch.tensor(value).item()


def test_the_parametrisation_has_no_kink_at_the_floor() -> None:
    for raw in (1.0 - 1e-6, 1.0 + 1e-6):
        r = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
        value = positive(r, torch.tensor(1.0, dtype=torch.float64))
        value.backward()
        assert r.grad is not None
        assert (value.item(), r.grad.item()) == pytest.approx((1.0, 1.0), abs=1e-5)


def test_a_step_that_the_optimiser_pushes_below_zero_stays_positive_and_can_come_back() -> None:
    learned = LearnedStep(activation_range(8, signed=False), (), 1)
    learned.start_from(torch.tensor(0.1))
    with torch.no_grad():
        learned.raw.fill_(-5.0)
    step = learned.step()
    step.backward()
    assert step.item() > 0
    assert learned.raw.grad is not None
    assert learned.raw.grad.item() > 0


def test_the_gradient_of_a_step_is_scaled_by_one_over_root_n_times_qmax() -> None:
    codes = weight_range(4)
    learned = LearnedStep(codes, (2, 1), 5)
    learned.start_from(torch.tensor([0.1, 0.2]))
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    learned(x).sum().backward()
    plain = torch.tensor([[0.1], [0.2]], requires_grad=True)
    fake_quantize(x, plain, codes).sum().backward()
    assert learned.raw.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(learned.raw.grad, plain.grad / math.sqrt(5 * codes.qmax), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 7)], ids=["image", "matrix"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_the_node_equals_the_expression_that_exact_mode_differentiates(
    shape: tuple[int, ...], per_channel: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    codes = CodeRange(-2, 3)
    step_shape = (shape[0], *[1] * (len(shape) - 1)) if per_channel else ()
    x, upstream = (torch.randn(shape, generator=generator) * 3 for _ in range(2))
    s = torch.rand(step_shape, generator=generator) + 0.5
    if len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    found = []
    for function in (fake_quantize, lambda x, s, c: to_codes(x, s, c) * s):
        leaves = [t.clone().requires_grad_() for t in (x, s)]
        out = function(*leaves, codes)
        out.backward(upstream)
        found.append((out.detach(), *(leaf.grad for leaf in leaves)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: apt install g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile uses parts of torch that are
def test_compiled_it_is_one_graph_with_the_same_values_and_gradients_and_is_compiled_once() -> None:
    def both(x: torch.Tensor, s: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return fake_quantize(x, s, CodeRange(0, 15)), fake_quantize(w, t, CodeRange(-7, 7))

    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(both, dynamic=False, fullgraph=True, options=dict(FUSION))
    generator = torch.Generator().manual_seed(5)
    for step in (0.3, 0.4):
        x = (3 * torch.randn(2, 3, 4, 5, generator=generator)).contiguous(memory_format=torch.channels_last)
        w, t = torch.randn(4, 3, 3, 3, generator=generator), torch.rand(4, 1, 1, 1, generator=generator) + 0.1
        found = []
        for function in (both, compiled):
            leaves = [leaf.clone().requires_grad_() for leaf in (x, torch.tensor(step), w, t)]
            out = function(*leaves)
            torch.autograd.backward(out, [torch.full_like(o, 0.37) for o in out])
            found.append([*out, *(leaf.grad for leaf in leaves)])
        (a, b, ga, gs, gb, gt), (a2, b2, ga2, gs2, gb2, gt2) = found
        assert all(torch.equal(p, q) for p, q in ((a, a2), (b, b2), (ga, ga2), (gb, gb2)))
        for sums, other_order in ((gs, gs2), (gt, gt2)):
            torch.testing.assert_close(sums, other_order, rtol=1e-6, atol=5e-5)
    assert counters["stats"]["unique_graphs"] == 1


def test_substituted_codes_have_the_value_given_and_the_gradients_of_quantizing() -> None:
    generator = torch.Generator().manual_seed(4)
    codes, upstream = CodeRange(0, 15), torch.randn(2, 3, 4, 5, generator=generator)
    x, exact = torch.randn(2, 3, 4, 5, generator=generator) * 9, torch.randint(0, 16, (2, 3, 4, 5)).float()
    gradients = []
    for function in (lambda x, s: substitute_codes(x, s, codes, exact), lambda x, s: to_codes(x, s, codes)):
        leaves = [x.clone().requires_grad_(), torch.tensor(0.7, requires_grad=True)]
        out = function(*leaves)
        out.backward(upstream)
        gradients.append([leaf.grad for leaf in leaves])
    assert torch.equal(substitute_codes(x, torch.tensor(0.7), codes, exact), exact)
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_each_channel_has_its_own_step() -> None:
    learned = LearnedStep(weight_range(8), (2, 1), 1)
    learned.start_from(torch.tensor([1.0, 10.0]))
    assert learned(torch.tensor([[3.4], [33.0]])).tolist() == [[3.0], [30.0]]


def test_ternary_weights_start_at_the_mean_of_the_weights_that_are_worth_keeping() -> None:
    w = torch.tensor([[0.1, -0.5, 1.0, -1.2], [0.2, -0.2, 0.2, 0.2]])  # keeping two leaves 0.28, three 0.27
    assert ternary_step(w).flatten().tolist() == pytest.approx([0.9, 0.2], rel=1e-6)


@pytest.mark.parametrize("codes", [weight_range(b) for b in (2, 3, 4, 8)], ids=str)
def test_the_least_squares_step_beats_the_step_that_never_clips(codes: CodeRange) -> None:
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(1))
    fitted, widest = least_squares_step(x, codes), x.abs().amax(1, keepdim=True) / codes.qmax

    def error(step: torch.Tensor) -> torch.Tensor:
        return (fake_quantize(x, step, codes) - x).square().sum(1)

    assert (error(fitted) <= error(widest)).all()
    assert fitted.shape == (3, 1)


def test_a_channel_of_zeros_still_has_a_positive_step() -> None:
    w = torch.zeros(2, 3, 3, 3)
    for codes in (weight_range(4), weight_range("ternary")):
        learned = LearnedStep(codes, (2, 1, 1, 1), 27)
        learned.start_from(initial_weight_step(w, codes, per_channel=True))
        assert (learned.step() > 0).all()
        assert learned(w).abs().max() == 0


def test_an_activation_step_is_one_number() -> None:
    x = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    step = initial_activation_step(x, activation_range(8, signed=False))
    assert step.shape == ()
    assert step.item() == pytest.approx(1 / 255, rel=0.05)


def test_ranges_of_codes_by_bits() -> None:
    assert [weight_range(b) for b in (3, 8)] == [CodeRange(-3, 3), CodeRange(-127, 127)]
    assert activation_range(4, signed=False) == CodeRange(0, 15)
    assert activation_range(8, signed=True) == CodeRange(-128, 127)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_an_activation_of_any_width_starts_where_it_errs_least(bits: int, signed: bool) -> None:
    codes = activation_range(bits, signed)
    assert codes.qmax - codes.qmin + 1 == 2**bits
    x = torch.randn(4000, generator=torch.Generator().manual_seed(bits))
    x = x if signed else x.relu()

    def error(step: float) -> float:
        return float((fake_quantize(x, torch.tensor(step), codes) - x).square().sum())

    found = initial_activation_step(x, codes).item()
    widest = x.abs().max().item() / codes.qmax
    assert error(found) <= min(error(widest * i / 200) for i in range(5, 201)) * 1.05


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_weights_first_step_errs_hardly_more_than_the_best_one(bits: int) -> None:
    w = torch.randn(3, 400, generator=torch.Generator().manual_seed(bits))
    codes, largest = weight_range(bits), w.abs().amax(1, keepdim=True)

    def error(step: torch.Tensor) -> torch.Tensor:
        return (fake_quantize(w, step, codes) - w).square().sum(1)

    best = torch.stack([error(largest * i / 400) for i in range(5, 500)]).amin(0)
    assert (error(initial_weight_step(w, codes, per_channel=True)) <= best * 1.05).all()


@pytest.mark.parametrize("taps", [1, 2, 9, 400])
def test_no_ternary_scale_errs_less_than_the_first_one(taps: int) -> None:
    w = torch.randn(50, taps, generator=torch.Generator().manual_seed(taps), dtype=torch.float64)

    def error(step: torch.Tensor) -> torch.Tensor:
        return (fake_quantize(w, step, weight_range("ternary")) - w).square().sum(1)

    found, largest = error(ternary_step(w)), w.abs().amax(1, keepdim=True)
    assert all((found <= error(largest * i / 400) + 1e-12).all() for i in range(5, 500))  # sums round differently
