"""Ternary weights with a threshold a side: values, the gradients of the docstring, LSQ as a special case, codes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from qkd.bits import Bits
from qkd.data.pixels import image_batch
from qkd.graph.reference import run
from qkd.recipe import QuantizerSpec
from qkd.student.freeze import freeze
from qkd.student.quantizer import LearnedStep, weight_range
from qkd.student.student import QuantStudent, calibrate, prepare, run_codes
from qkd.student.ternary import AsymmetricTernary
from qkd.train.optimisation import Learner, parameter_groups
from tests.support.networks import SHAPE, Everything, random_pixels, scramble

TERNARY = weight_range("ternary")
ASYMMETRIC = QuantizerSpec(ternary_thresholds="asymmetric")


def quantizer(step: float, above: float, below: float) -> AsymmetricTernary:
    made = AsymmetricTernary(TERNARY, (1, 1), 1)  # N = 1 and qmax = 1: LSQ's gradient scale is 1
    made.start_from(torch.tensor([[step]]))
    made.above.start_from(torch.tensor([[above]]))
    made.below.start_from(torch.tensor([[below]]))
    return made


def by_hand(w: float, s: float, a: float, b: float) -> tuple[float, float, float, float, float]:
    """Value and gradients to w, s, a, b of one weight, as the module's docstring has them."""
    interval = a if w > 0 else b
    v = w / interval
    code = round(max(-1.0, min(1.0, v)))
    if abs(v) >= 1:
        return s * code, 0.0, code, 0.0, 0.0
    to_interval = -v * s / interval
    return s * code, s / interval, code, to_interval if w > 0 else 0.0, to_interval if w <= 0 else 0.0


@pytest.mark.parametrize("w", [-2.0, -0.9, -0.46, -0.44, -0.1, 0.0, 0.1, 0.19, 0.21, 0.39, 0.41, 3.0])
def test_value_and_gradients_equal_the_formulas(w: float) -> None:
    made = quantizer(0.7, 0.4, 0.9)
    x = torch.tensor([[w]], requires_grad=True)
    y = made(x)
    y.sum().backward()
    gradients = [t.grad for t in (x, made.raw, made.above.raw, made.below.raw)]
    found = (y.item(), *(0.0 if g is None else g.item() for g in gradients))
    assert found == pytest.approx(by_hand(w, 0.7, 0.4, 0.9), abs=1e-6)


def test_the_thresholds_lie_at_half_of_each_interval() -> None:
    codes = quantizer(0.7, 0.4, 0.9).to_codes(torch.tensor([[-0.451, -0.449, 0.199, 0.201]]))
    assert codes.tolist() == [[-1, 0, 0, 1]]


def test_with_equal_intervals_it_is_a_learned_step_whose_gradient_is_split_in_three() -> None:
    w = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)) * 0.3
    plain, free = LearnedStep(TERNARY, (4, 1), 30), AsymmetricTernary(TERNARY, (4, 1), 30)
    inputs = []
    for made in (plain, free):
        made.start_from(torch.tensor([0.2, 0.3, 0.4, 0.5]))
        inputs.append(w.clone().requires_grad_())
        made(inputs[-1]).square().sum().backward()
    assert torch.equal(plain(w), free(w))
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-6)
    parts = [learned.raw.grad for learned in (free, free.above, free.below)]
    assert plain.raw.grad is not None
    assert parts[1] is not None
    assert float(parts[1].abs().min()) > 0
    torch.testing.assert_close(plain.raw.grad, sum(parts, torch.zeros(4, 1)), rtol=0, atol=1e-6)
    assert free.above.gradient_scale == 1 / math.sqrt(30)


def test_an_interval_that_the_optimiser_pushes_below_zero_stays_positive() -> None:
    made = quantizer(0.5, 0.5, 0.5)
    with torch.no_grad():
        made.above.raw.fill_(-3.0)
    assert (made.spacing(torch.tensor([[1.0, -1.0]])) > 0).all()
    assert made.to_codes(torch.tensor([[1.0, -1.0]])).tolist() == [[1, -1]]


def student(bits: str = "ternary-A8") -> QuantStudent:
    """A student whose thresholds have moved apart."""
    torch.manual_seed(0)
    made = prepare(scramble(Everything()).eval(), Bits.parse(bits), SHAPE, ASYMMETRIC)
    for layer in made.inner():
        if isinstance(layer.weight_step, AsymmetricTernary):
            with torch.no_grad():
                layer.weight_step.above.raw.mul_(1.6)
                layer.weight_step.below.raw.mul_(0.5)
    calibrate(made, image_batch(random_pixels(SHAPE, 32)))
    return made


def test_what_is_trained_is_what_the_integer_graph_computes() -> None:
    made, pixels = student(), random_pixels(SHAPE, 20, seed=9)
    codes = (pixels.astype(np.int64) - 128).astype(np.int8)
    graph = freeze(made, "net")
    logits = run(graph, codes)[graph.outputs[0]]
    assert np.array_equal(run_codes(made, codes)[made.ordered()[-1].name], logits)
    inner = [graph.values[f"{layer.name}.w"] for layer in made.inner()]
    assert all((value.qmin, value.qmax, value.codebook) == (-1, 1, None) for value in inner)
    shares = [(float((v.data == 1).mean()), float((v.data == -1).mean())) for v in inner if v.data is not None]
    assert all(plus < minus for plus, minus in shares)  # the thresholds do differ


def test_only_inner_ternary_weights_get_thresholds_and_all_of_them_learn_as_steps() -> None:
    made = student()
    kinds = [type(layer.weight_step) for layer in made.weighted()]
    assert kinds == [LearnedStep, *[AsymmetricTernary] * 5, LearnedStep]
    groups = parameter_groups({"quantized": Learner(made, 0.1, 0.05)}, 0.0)
    steps = {id(p) for p in groups[-1]["params"]}
    inner = [layer.weight_step for layer in made.inner()]
    assert all(id(p) in steps for step in inner for p in step.parameters())
    assert not any(isinstance(layer.weight_step, AsymmetricTernary) for layer in student("W2A8").weighted())


def test_training_moves_the_thresholds() -> None:
    made = student().train()
    before: list[Tensor] = [p.detach().clone() for p in made.inner()[0].weight_step.parameters()]
    optimiser = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        images, labels = image_batch(random_pixels(SHAPE, 32)), torch.arange(32) % 5
        torch.nn.functional.cross_entropy(made(images), labels).backward()
        optimiser.step()
    after = list(made.inner()[0].weight_step.parameters())
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
