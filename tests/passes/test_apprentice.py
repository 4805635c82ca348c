"""Apprentice: its loss against the closed form, and what its schemes have in common."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import softmax

from qkd.errors import RecipeError
from qkd.passes.train.apprentice import Apprentice, first_student
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.self_study import SelfStudy
from qkd.passes.train.tutoring import Tutoring
from qkd.pipeline import check_order, run_passes
from qkd.train.knowledge.response import full_cross_entropy
from qkd.train.state import Session, TrainState, student_is_quantized
from qkd.train.teacher_logits import FOLDER
from tests.support.networks import same_weights, tiny_state

STEPS = {"learning_rate": 0.05, "warmup": 0.2}


def taught(state: TrainState | None = None) -> TrainState:
    """Teacher trained, student as it was born."""
    return Pretrain("teacher", 2)(state or tiny_state())


def untrained_but_quantized(state: TrainState) -> TrainState:
    """What scheme C gets when the student's weights are random; the pass number stays, as seeds depend on it."""
    return replace(state, quantized=first_student(state))


def test_the_response_term_is_the_sum_of_probability_times_log_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = softmax(teacher, 1).tolist(), softmax(student, 1).tolist()
    rows = [-sum(a * math.log(b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    assert full_cross_entropy(student, teacher).item() == pytest.approx(sum(rows) / 3, abs=1e-6)


def test_the_response_terms_gradient_is_the_difference_of_probabilities() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    full_cross_entropy(student.requires_grad_(), teacher).backward()
    expected = (softmax(student, 1) - softmax(teacher, 1)) / 3
    torch.testing.assert_close(student.grad, expected.detach(), atol=1e-6, rtol=1e-6)


def test_scheme_a_without_the_response_is_two_independent_runs() -> None:
    state = tiny_state()
    both = Apprentice("A", 2, teacher_learning_rate=0.1, beta=1.0, gamma=0.0, **STEPS)(state)  # type: ignore[arg-type]
    teacher = Pretrain("teacher", 2, 0.1, warmup=0.2)(state).teacher
    student = SelfStudy(2, **STEPS)(untrained_but_quantized(state)).quantized  # type: ignore[arg-type]
    assert student is not None
    torch.testing.assert_close(both.teacher.state_dict(), teacher.state_dict(), rtol=0, atol=1e-6)
    torch.testing.assert_close(both.student_to_train().state_dict(), student.state_dict(), rtol=0, atol=1e-6)


def test_the_response_does_not_reach_the_teacher_in_scheme_a() -> None:
    state = tiny_state()
    without, with_it = (Apprentice("A", 1, gamma=gamma)(state) for gamma in (0.0, 5.0))
    assert same_weights(without.teacher, with_it.teacher)
    assert not same_weights(without.quantized, with_it.quantized)


def test_b_is_c_with_random_initialisation() -> None:
    state = taught()
    born, fine_tuned = Apprentice("B", 2)(state), Apprentice("C", 2)(untrained_but_quantized(state))
    assert same_weights(born.quantized, fine_tuned.quantized)
    assert same_weights(born.teacher, state.teacher)


def test_kept_logits_give_the_same_bits_as_asking_the_teacher(tmp_path: Path) -> None:
    state = taught()
    online = Apprentice("B", 2)(state)
    first, second = (
        Apprentice("B", 2)(replace(state, session=Session(tuple(tmp_path / "passes" / f"{arm}{i}" for i in range(2)))))
        for arm in ("x", "y")
    )
    assert len(list((tmp_path / FOLDER).rglob("epoch_*.pt"))) == 2
    assert same_weights(online.quantized, first.quantized)
    assert same_weights(online.quantized, second.quantized)


def test_the_teacher_is_not_asked_about_views_it_has_seen(tmp_path: Path) -> None:
    state = taught()
    Apprentice("B", 2)(replace(state, session=Session(tuple(tmp_path / "passes" / f"x{i}" for i in range(2)))))

    def silent(*_: object) -> None:
        raise AssertionError("the teacher was asked")

    again = replace(state, session=Session(tuple(tmp_path / "passes" / f"y{i}" for i in range(2))))
    again.teacher.forward = silent
    assert Apprentice("B", 2)(again).history


def test_without_augmentation_the_teacher_is_asked_about_each_image_once(tmp_path: Path) -> None:
    state = taught()
    plain = replace(state, data=replace(state.data, crop_padding=0, flip=False))
    asked: list[int] = []
    plain.teacher.register_forward_pre_hook(lambda _, images: asked.append(len(images[0])))
    online = Tutoring(4)(untrained_but_quantized(plain))
    assert sum(asked) == len(plain.data.train)
    kept, again = (
        Tutoring(4)(replace(untrained_but_quantized(plain), session=Session((tmp_path, tmp_path / "passes" / arm))))
        for arm in ("a", "b")
    )
    assert sum(asked) == 2 * len(plain.data.train)
    assert same_weights(online.quantized, kept.quantized)
    assert same_weights(online.quantized, again.quantized)


@pytest.mark.parametrize("change", ["padding", "seed", "teacher", "batch size", "pass"])
def test_other_views_or_another_teacher_are_asked_anew(tmp_path: Path, change: str) -> None:
    def keys(state: TrainState) -> set[Path]:
        folders = tuple(tmp_path / "passes" / f"{change}{i}" for i in range(3))
        Apprentice("B", 1)(replace(state, session=Session(folders)))
        return set((tmp_path / FOLDER).iterdir())

    state = taught()
    before = keys(state)
    data, settings = state.data, state.settings
    changed = {
        "padding": replace(state, data=replace(data, crop_padding=0)),
        "seed": replace(state, settings=settings.model_copy(update={"seed": 7})),
        "teacher": Pretrain("teacher", 1)(tiny_state()),
        "batch size": replace(state, settings=settings.model_copy(update={"batch_size": 16})),
        "pass": replace(state, passes=state.passes * 2),
    }[change]
    for checkpoint in (tmp_path / "passes").rglob("checkpoint.pt"):
        checkpoint.unlink()
    assert len(keys(changed) - before) == 1


def test_each_scheme_needs_what_it_starts_from() -> None:
    check_order([Apprentice("A", 1)])
    with pytest.raises(RecipeError, match="teacher has been trained"):
        check_order([Apprentice("B", 1)])
    with pytest.raises(RecipeError, match="student is quantized"):
        check_order([Pretrain("teacher", 1), Apprentice("C", 1)])


def test_scheme_c_ends_with_a_quantized_student() -> None:
    state = run_passes((Pretrain("teacher", 2), Pretrain("student", 2), Quantize(), Apprentice("C", 2)), tiny_state())
    assert student_is_quantized(state) is None
