"""Oscillation dampening: its gradient is that of the paper's loss, it rises as the authors' code has it, it acts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qkd.passes.train.co_study import CoStudy
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.self_study import Qat
from qkd.recipe import QuantizerSpec
from qkd.student.quantizer import LearnedStep
from qkd.student.student import QuantStudent
from qkd.train.dampening import dampen, dampening_strength
from qkd.train.state import TrainState
from tests.support.networks import same_weights, small_student, tiny_network, tiny_state


def paper_loss(student: QuantStudent, strength: float) -> Tensor:
    """λ Σ (clip(w) − ŵ)² over the inner layers, done literally."""
    total = torch.zeros(())
    for layer in student.inner():
        quantizer, weight = layer.weight_step, layer.weight
        assert isinstance(quantizer, LearnedStep)
        step = quantizer.step().detach()
        clipped = torch.clamp(weight, quantizer.codes.qmin * step, quantizer.codes.qmax * step)
        total = total + (clipped - quantizer(weight).detach()).square().sum()
    return strength * total


@pytest.mark.parametrize("bits", ["W4A4", "W2A2", "ternary-A8"])
def test_the_gradient_is_that_of_the_papers_loss_and_no_step_gets_one(bits: str) -> None:
    literal, ours = small_student(bits), small_student(bits)
    paper_loss(literal, 0.3).backward()
    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter)
    dampen([ours, tiny_network()], 0.3)
    largest = 0.0
    for (name, a), b in zip(literal.named_parameters(), ours.parameters(), strict=True):
        expected = torch.zeros_like(a) if a.grad is None else a.grad
        assert b.grad is not None
        torch.testing.assert_close(b.grad, expected, rtol=0, atol=1e-6, msg=name)
        largest = max(largest, float(b.grad.abs().max()))
    assert largest > 0.01


def test_a_student_that_computes_in_float_is_left_alone() -> None:
    student = small_student()
    student.inner()[0].weight.grad = torch.zeros_like(student.inner()[0].weight)
    student.mode = "real"
    dampen([student], 1.0)
    assert float(student.inner()[0].weight.grad.abs().max()) == 0


def test_the_strength_rises_by_a_cosine_after_the_first_quarter() -> None:
    found = [dampening_strength(p, 2.0) for p in (0.0, 0.25, 0.625, 1.0)]
    assert found == pytest.approx([0, 0, 1, 2], abs=1e-12)


@torch.no_grad()
def off_centre(state: TrainState) -> float:
    """Mean squared distance of the inner weights from their codes, in steps."""
    distances = []
    for layer in state.student_to_train().inner():
        v = (layer.weight / layer.weight_scale()).detach()
        distances.append((v - layer.weight_step.to_codes(layer.weight)).square()[v.abs() < 7].mean())
    return float(torch.stack(distances).mean())


def started(dampening: float | None) -> TrainState:
    """A quantized student with an inner layer, before training."""
    state = tiny_state() if dampening is None else tiny_state(quantizer={"dampening": dampening})
    inner = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.ReLU())
    first, norm, relu, *rest = state.student.children()
    state = replace(state, student=torch.nn.Sequential(first, norm, relu, *inner, *rest))
    return Quantize(32, 2)(Pretrain("student", 2)(Pretrain("teacher", 1)(state)))


def test_every_pass_that_trains_a_student_dampens_it() -> None:
    for train in (Qat(4), CoStudy(4)):
        without, with_pull = train(started(0.0)), train(started(20.0))
        assert off_centre(with_pull) < 0.5 * off_centre(without)


def test_no_dampening_changes_nothing() -> None:
    assert same_weights(Qat(1)(started(None)).quantized, Qat(1)(started(0.0)).quantized)
    assert QuantizerSpec().dampening == 0
