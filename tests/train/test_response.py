"""The distillation loss against closed forms, to 1e-6 in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax

from qkd.train.knowledge.response import ResponseLoss, full_cross_entropy, softened_kl

EXACT = {"abs": 1e-6, "rel": 1e-6}


def logits(seed: int, rows: int = 3, classes: int = 5) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_divergence_is_the_sum_over_classes_and_the_mean_over_samples(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    p, q = softmax(teacher / temperature, 1).tolist(), softmax(student / temperature, 1).tolist()
    rows = [sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    expected = temperature**2 * sum(rows) / len(rows)
    assert softened_kl(student, teacher, temperature).item() == pytest.approx(expected, **EXACT)


def test_two_classes_have_the_divergence_of_a_coin() -> None:
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert softened_kl(student, teacher, 1.0).item() == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_the_gradient_is_the_temperature_times_the_difference_of_probabilities(temperature: float) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    softened_kl(student, teacher, temperature).backward()
    expected = temperature * (softmax(student / temperature, 1) - softmax(teacher / temperature, 1)) / len(student)
    torch.testing.assert_close(student.grad, expected.detach(), atol=1e-6, rtol=1e-6)


def test_equal_logits_have_no_divergence_and_no_gradient() -> None:
    student = logits(0).requires_grad_()
    loss = softened_kl(student, logits(0), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", [lambda z, t: softened_kl(z, t, 2.0), full_cross_entropy], ids=["kl", "cross_entropy"])
def test_logits_in_bfloat16_lose_nothing_more_in_the_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    teacher = logits(1).bfloat16()
    student = (teacher * 1.02).requires_grad_()  # that nearly agrees: products of bfloat16 erred by tenths there
    exact = student.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        of_half = loss(student, teacher)
    of_exact = loss(exact, teacher.float())
    assert of_half.item() == of_exact.item()
    of_half.backward()
    of_exact.backward()
    assert student.grad is not None
    assert exact.grad is not None
    assert torch.equal(student.grad, exact.grad.bfloat16())


def test_the_target_is_detached() -> None:
    teacher = logits(1).requires_grad_()
    ResponseLoss(2.0)(logits(0).requires_grad_(), teacher, torch.tensor([0, 1, 2])).backward()
    assert teacher.grad is None


def test_sum_adds_and_convex_shares() -> None:
    student, teacher, labels = logits(0), logits(1), torch.tensor([0, 1, 2])
    hard, soft = cross_entropy(student, labels).item(), softened_kl(student, teacher, 2.0).item()
    assert ResponseLoss(2.0, 0.5, "sum")(student, teacher, labels).item() == pytest.approx(hard + 0.5 * soft, **EXACT)
    convex = ResponseLoss(2.0, 0.7, "convex")(student, teacher, labels).item()
    assert convex == pytest.approx(0.3 * hard + 0.7 * soft, **EXACT)
