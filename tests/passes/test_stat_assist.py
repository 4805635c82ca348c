"""StatAssist and GradBoost: what is trained when, the noise's formula, and that interruption changes nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qkd.errors import RecipeError
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.stat_assist import StatAssist
from qkd.train.gradient_boost import GradBoost
from qkd.train.optimisation import make_optimiser
from qkd.train.state import Session, student_is_quantized
from tests.support.interrupts import Interrupts
from tests.support.networks import same_weights, tiny_state


def boosted(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """What GradBoost adds to a parameter's gradient in successive steps."""
    parameter = nn.Parameter(torch.zeros_like(gradients[0]))
    rule, generator = GradBoost([parameter]), torch.Generator().manual_seed(0)
    added = []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        rule(generator)
        added.append(parameter.grad - gradient)
    return added


def test_the_noise_is_along_the_gradient_and_small() -> None:
    gradients = [torch.randn(200, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    for gradient, added in zip(gradients, boosted(gradients), strict=True):
        assert bool((added * gradient >= 0).all())
        assert float(added.abs().max()) <= 1e-3 + 1e-7
    assert 0.3 < float((boosted(gradients)[-1] == 0).float().mean()) < 0.7


def test_the_noise_is_laplace_times_the_averaged_spread_and_fades() -> None:
    sizes = [2e-6, 5e-6, 1e-6, 4e-6]
    largest = smallest = sizes[0]
    high = low = 0.0
    generator = torch.Generator().manual_seed(0)
    for step, (size, added) in enumerate(
        zip(sizes, boosted([torch.full((50,), s, dtype=torch.float64) for s in sizes]), strict=True), 1
    ):
        largest, smallest = max(largest, size), min(smallest, size)
        high, low = 0.9 * high + 0.1 * largest, 0.9 * low + 0.1 * smallest
        spread = (high - low) / (1 - 0.9**step) * 0.99**step
        laplace = torch.empty(50, dtype=torch.float64).exponential_(generator=generator)
        coin = torch.randint(0, 2, (50,), generator=generator)
        torch.testing.assert_close(added, laplace * coin * spread, rtol=1e-6, atol=0)


def test_statistics_are_kept_while_no_noise_is_added() -> None:
    parameter, generator = nn.Parameter(torch.zeros(50, dtype=torch.float64)), torch.Generator().manual_seed(0)
    rule = GradBoost([parameter])
    rule.active = False
    for size in (2e-6, 5e-6):
        parameter.grad = torch.full((50,), size, dtype=torch.float64)
        rule(generator)
        assert float(parameter.grad.max()) == size
    rule.active = True
    parameter.grad = torch.full((50,), 5e-6, dtype=torch.float64)
    rule(generator)
    spread = (0.1 * 0.9 * 3e-6 + 0.1 * 3e-6) / (1 - 0.9**3)  # of the second and the third step
    laplace = torch.empty(50, dtype=torch.float64).exponential_(generator=(again := torch.Generator().manual_seed(0)))
    coin = torch.randint(0, 2, (50,), generator=again)
    torch.testing.assert_close(parameter.grad - 5e-6, laplace * coin * spread * 0.99, rtol=1e-6, atol=0)


def test_a_parameter_that_learns_later_is_corrected_for_its_own_steps() -> None:
    early, late = (nn.Parameter(torch.zeros(50)) for _ in range(2))
    rule, generator = GradBoost([early, late]), torch.Generator().manual_seed(0)
    for size in (1e-6, 1e-6, 2e-6, 5e-6):
        early.grad = torch.full((50,), 1e-6)
        late.grad = torch.full((50,), size) if size > 1e-6 else None
        rule(generator)
    assert rule.steps == {0: 4, 1: 2}
    alone = nn.Parameter(torch.zeros(50))
    same = GradBoost([alone])
    for size in (2e-6, 5e-6):
        spread = same._spread(0, torch.full((50,), size))
    (largest, smallest, high, low) = rule.seen[1]
    assert torch.equal((high - low) / (1 - 0.9**2), spread)
    assert float((largest - smallest).max()) == pytest.approx(3e-6)


def test_a_gradient_that_never_changed_gets_no_noise() -> None:
    assert all(float(added.abs().max()) == 0 for added in boosted([torch.full((9,), 0.5)] * 3))


def test_without_boost_the_float_epochs_are_plain_float_training() -> None:
    state = tiny_state()
    warm = StatAssist(3, 2, grad_boost=False, learning_rate=0.1)(state)
    plain = Pretrain("student", 3, 0.1, warmup=0.1)(state)
    for epoch in (0, 1):
        assert warm.history[epoch].loss == pytest.approx(plain.history[epoch].loss, rel=1e-5)
    assert warm.history[2].loss != pytest.approx(plain.history[2].loss, rel=1e-5)


def test_it_ends_with_a_quantized_student_and_leaves_the_float_one_alone() -> None:
    state = tiny_state()
    before = {name: tensor.clone() for name, tensor in state.student.state_dict().items()}
    after = StatAssist(2, 1)(state)
    assert student_is_quantized(after) is None
    assert after.student_to_train().mode == "fake"
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.student.state_dict().items())


def test_moments_of_the_float_epochs_go_on_in_the_quantized_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.optim.Optimizer] = []

    def remember(*arguments: Any) -> torch.optim.Optimizer:
        made.append(make_optimiser(*arguments))
        return made[-1]

    monkeypatch.setattr("qkd.train.training.make_optimiser", remember)
    state = tiny_state()
    StatAssist(3, 2, optimiser="adam", learning_rate=0.003)(state)
    [optimiser] = made
    batches = len(state.data.train) // state.settings.batch_size
    updates = {int(moments["step"]) for moments in optimiser.state.values()}
    assert updates == {3 * batches, batches}  # weights, and steps, which learn in the quantized epoch only


@pytest.mark.parametrize("optimiser", ["sgd", "rmsprop", "adam", "adamw"])
def test_every_optimiser_is_kept_from_float_to_quantized_and_over_a_kill(tmp_path: Path, optimiser: str) -> None:
    step = StatAssist(3, 1, optimiser=optimiser, learning_rate=0.003)  # type: ignore[arg-type]
    whole = step(tiny_state())
    with pytest.raises(KeyboardInterrupt):
        step(replace(tiny_state(), session=Session((tmp_path,), Interrupts(8))))
    resumed = step(replace(tiny_state(), session=Session((tmp_path,))))
    assert same_weights(resumed.quantized, whole.quantized)


def test_at_least_one_epoch_must_be_quantized() -> None:
    with pytest.raises(RecipeError, match="float_epochs is 2 of 2"):
        StatAssist(2, 2)
