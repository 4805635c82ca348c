"""Weights on free levels against the paper's formulas, to 1e-6: scaling, rounding, gradients, points, sizes, codes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qkd.student.levels import (
    LevelSpec,
    WeightLevels,
    allocate_points,
    even_points,
    in_buckets,
    lloyd_points,
    nearest_point,
    quantile_points,
    scale_to_unit,
    stochastic_rounding,
)
from qkd.student.paper_size import mean_huffman_bits, paper_bytes
from qkd.train.knowledge.response import ResponseLoss, softened_kl
from tests.support.networks import small_student

CLOSE = {"rtol": 0, "atol": 1e-6}


def weight(seed: int = 0, shape: tuple[int, ...] = (4, 3, 3, 3)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def levels(w: Tensor, count: int, **options: object) -> WeightLevels:
    return WeightLevels(LevelSpec((count,), **options), count, tuple(w.shape))  # type: ignore[arg-type]


def rounded_by_hand(values: list[float], steps: int) -> list[float]:
    low, high = min(values), max(values)
    span = high - low if high - low >= 1e-10 else 1.0
    return [span * round((v - low) / span * steps) / steps + low for v in values]


@pytest.mark.parametrize("bucket", [5, 256, "tensor", "channel"])
@pytest.mark.parametrize("count", [3, 4, 16])
def test_weights_are_scaled_in_their_bucket_and_rounded_to_even_steps(bucket: int | str, count: int) -> None:
    w = weight()
    flat = w.reshape(-1).tolist()
    size = {"tensor": len(flat), "channel": 27}.get(str(bucket), bucket)
    assert isinstance(size, int)
    parts = [flat[i : i + size] for i in range(0, len(flat), size)]
    expected = [v for part in parts for v in rounded_by_hand(part, count - 1)]
    torch.testing.assert_close(levels(w, count, bucket=bucket)(w).reshape(-1), torch.tensor(expected), **CLOSE)


def test_the_last_bucket_is_filled_with_the_last_weight() -> None:
    assert in_buckets(torch.arange(5.0), 3).tolist() == [[0, 1, 2], [3, 4, 4]]


def test_a_bucket_of_equal_weights_keeps_them() -> None:
    w = torch.full((2, 3), 0.25)
    torch.testing.assert_close(levels(w, 4, bucket=3)(w), w, **CLOSE)
    assert scale_to_unit(w)[2].tolist() == [[1.0], [1.0]]


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(2, 16))
def test_stochastic_rounding_reaches_only_the_neighbours_and_is_unbiased(value: float, count: int) -> None:
    torch.manual_seed(0)
    drawn = stochastic_rounding(torch.full((20_000,), value, dtype=torch.float64), count)
    assert float((drawn - value).abs().max()) < 1 / (count - 1) + 1e-9
    standard_error = 0.5 / (count - 1) / math.sqrt(len(drawn))
    assert abs(float(drawn.mean()) - value) < 5 * standard_error + 1e-12


def test_stochastic_rounding_acts_in_train_mode_only() -> None:
    w = weight()
    quantizer = levels(w, 4, rounding="stochastic")
    nearest = levels(w, 4)(w)
    torch.manual_seed(0)
    assert not torch.equal(quantizer(w), nearest)
    assert torch.equal(quantizer.eval()(w), nearest)


def test_a_step_moves_the_float_weights_by_the_gradient_at_the_rounded_ones() -> None:
    """Algorithm 1, done literally: save w, load w_q, backward, restore, step."""
    w, x = weight(shape=(4, 5)).requires_grad_(), weight(1, (7, 5))
    (levels(w, 4)(w) @ x.T).square().mean().backward()
    loaded = levels(w, 4)(w).detach().requires_grad_()
    (loaded @ x.T).square().mean().backward()
    torch.testing.assert_close(w.grad, loaded.grad, **CLOSE)


def test_truncated_gradients_stop_where_a_weight_is_beyond_one() -> None:
    w = torch.tensor([[-1.5, -0.5, 0.2, 1.2]], requires_grad=True)
    levels(w, 4, gradient="truncated")(w).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [[0, 1, 1, 0]]


def test_exact_gradients_flow_through_the_buckets_range() -> None:
    """w_q = (high − low) Q + low with v's rounding straight: an inner weight keeps 1, the ends get Q's error."""
    w = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64, requires_grad=True)
    quantizer = levels(w, 2, gradient="exact").double()
    quantizer(w)[0, 1].backward()
    v, q = 0.3, 0.0  # ∂/∂w_1 = 1; ∂/∂high = Q − v; ∂/∂low = v − Q
    torch.testing.assert_close(w.grad, torch.tensor([[v - q, 1.0, q - v]], dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("points_for", ["tensor", "bucket"])
def test_a_points_gradient_is_the_sum_of_span_times_gradient_over_its_weights(points_for: str) -> None:
    w = weight(shape=(3, 10))
    quantizer = levels(w, 4, learned=True, points_for=points_for)
    quantizer.start_from(w, "quantiles")
    upstream = weight(1, (3, 10))
    (quantizer(w) * upstream).sum().backward()
    scaled, _, span = scale_to_unit(in_buckets(w, "channel"))
    expected = torch.zeros_like(quantizer.points)
    for row in range(3):
        points = quantizer.points[row if points_for == "bucket" else 0].detach()
        for column in range(10):
            j = int((points - scaled[row, column]).abs().argmin())
            expected[row if points_for == "bucket" else 0, j] += span[row, 0] * upstream[row, column]
    torch.testing.assert_close(quantizer.points.grad, expected, **CLOSE)


def test_points_are_sorted_again_after_a_step() -> None:
    quantizer = levels(weight(), 4, learned=True)
    with torch.no_grad():
        quantizer.points.copy_(torch.tensor([[0.7, 0.1, 0.9, 0.2]]))
    quantizer.sort()
    torch.testing.assert_close(quantizer.points.detach(), torch.tensor([[0.1, 0.2, 0.7, 0.9]]))


def test_first_points_are_even_or_at_equispaced_ranks() -> None:
    rows = torch.tensor([[0.0, 0.1, 0.2, 0.3, 1.0]])
    assert even_points(rows, 3).tolist() == [[0, 0.5, 1]]
    torch.testing.assert_close(quantile_points(rows, 3), torch.tensor([[0.0, 0.2, 1.0]]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_lloyds_points_err_no_more_than_even_ones_or_quantiles(seed: int, count: int) -> None:
    rows = torch.rand(3, 40, generator=torch.Generator().manual_seed(seed))

    def error(points: Tensor) -> Tensor:
        return (points.gather(1, nearest_point(rows, points)) - rows).square().sum(dim=1)

    found = error(lloyd_points(rows, count))
    assert bool((found <= error(even_points(rows, count)) + 1e-6).all())
    assert bool((found <= error(quantile_points(rows, count)) + 1e-6).all())


def test_points_are_shared_out_by_gradient_and_their_number_stays() -> None:
    assert allocate_points((16, 16), (3.0, 1.0)) == (20, 12)
    assert allocate_points((4, 4, 4), (1.0, 1.0, 1.0)) == (4, 4, 4)
    assert sum(allocate_points((4, 16, 16), (0.1, 0.7, 0.33))) == 36
    assert allocate_points((3, 3, 3), (1.0, 0.0, 0.0)) == (5, 2, 2)
    assert allocate_points((127,) * 4, (5.0, 1.0, 1.0, 1.0)) == (127,) * 4


def test_the_two_readings_of_the_kls_weight_differ_by_the_number_of_classes() -> None:
    student, teacher, labels = weight(0, (6, 5)), weight(1, (6, 5)), torch.arange(6) % 5
    hard = torch.nn.functional.cross_entropy(student, labels)
    soft = softened_kl(student, teacher, 2.0)
    for averaging, share in (("batch", 1), ("elements", 5)):
        loss = ResponseLoss(2.0, 0.7, "convex", averaging)(student, teacher, labels)  # type: ignore[arg-type]
        torch.testing.assert_close(loss, 0.3 * hard + 0.7 * soft / share, **CLOSE)


@pytest.mark.parametrize("bucket", [7, "tensor", "channel"])
@pytest.mark.parametrize("learned", [False, True])
def test_codes_are_the_levels_on_an_int8_grid(bucket: int | str, learned: bool) -> None:
    w = weight()
    quantizer = levels(w, 4, bucket=bucket, learned=learned, points_for="bucket" if learned else "tensor")
    if learned:
        quantizer.start_from(w, "lloyd")
    codes, step = quantizer.to_codes(w).detach(), quantizer.step(w)
    assert float(codes.abs().max()) == 127
    assert float((codes * step - quantizer(w).detach()).abs().max()) <= float(step.max()) / 2 + 1e-6
    table = quantizer.table(w)
    if isinstance(bucket, int):
        assert table is None
    else:
        index, codebook = (part.astype(np.int64) for part in table or ())
        rows = np.broadcast_to(codebook, (4, 4))
        looked_up = np.take_along_axis(rows, index.reshape(4, -1), axis=1).reshape(index.shape)
        np.testing.assert_array_equal(looked_up, codes.numpy())


def test_a_point_that_no_weight_chose_stays_in_the_table_s_range() -> None:
    w = weight()
    quantizer = levels(w, 4, bucket="channel", learned=True, points_for="bucket")
    quantizer.start_from(w, "lloyd")
    with torch.no_grad():
        quantizer.points[:, -1] = 9.0
    _, codebook = quantizer.table(w) or (None, np.zeros(0))
    assert codebook.max() == 127


def test_a_huffman_code_takes_the_textbooks_bits() -> None:
    assert mean_huffman_bits([5, 9, 12, 13, 16, 45]) == pytest.approx(224 / 100)
    assert mean_huffman_bits([7]) == 0
    assert mean_huffman_bits([]) == 0


def test_the_papers_size_is_floats_and_codes_and_two_floats_a_bucket() -> None:
    student = small_student("W2A8")
    inner = sum(layer.weight.numel() for layer in student.inner())
    named = dict(student.named_parameters())
    everything = sum(p.numel() for name, p in named.items() if not name.endswith("raw"))
    assert paper_bytes(student) == 4 * everything
    student.use_levels(LevelSpec((4,) * len(student.inner()), bucket="tensor"))
    symbols = torch.cat([q.indices(layer.weight).reshape(-1) for layer, q in student.on_levels()])
    bits = mean_huffman_bits(symbols.bincount().tolist())
    expected = 4 * (everything - inner) + bits * inner / 8 + 8 * len(student.inner())
    assert paper_bytes(student) == round(expected)
