"""The training passes: what each changes and leaves alone, their order, and how a recipe names them."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from qkd.data.datasets import Split
from qkd.errors import RecipeError
from qkd.passes import TRAIN_PASSES, build_train_passes
from qkd.passes.train.apprentice import Apprentice
from qkd.passes.train.co_study import CoStudy
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantization_points import QuantizationPoints
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.re_estimate_batch_norm import ReEstimateBatchNorm
from qkd.passes.train.self_study import Qat, SelfStudy
from qkd.passes.train.stat_assist import StatAssist
from qkd.passes.train.tutoring import Distill, Tutoring
from qkd.pipeline import Pass, check_order, run_passes
from qkd.train.evaluation import top1
from qkd.train.state import Session, TrainState, student_is_quantized, student_is_trained, teacher_is_trained
from qkd.train.training_run import check_passes
from tests.support.networks import differing, same_weights, tiny_state

QUANTIZED_PASSES: list[Pass[TrainState]] = [
    SelfStudy(1), Qat(1), CoStudy(1), Tutoring(1), Distill(1), ReEstimateBatchNorm(2)
]  # fmt: skip


@pytest.fixture(scope="module")
def ready() -> TrainState:
    """Teacher and student trained, student quantized."""
    state = Pretrain("student", 3)(Pretrain("teacher", 3)(tiny_state()))
    return Quantize(calibration_images=32, norm_batches=2)(state)


def snapshot(state: TrainState) -> dict[str, Any]:
    networks = {"teacher": state.teacher, "student": state.student, "quantized": state.quantized}
    return {f"{r} {k}": v.clone() for r, n in networks.items() if n is not None for k, v in n.state_dict().items()}


@pytest.mark.parametrize("step", QUANTIZED_PASSES, ids=lambda step: step.name)
def test_a_pass_returns_a_new_state_and_leaves_the_old_one_alone(ready: TrainState, step: Pass[TrainState]) -> None:
    state = SelfStudy(1)(ready)
    before = snapshot(state)
    after = step(state)
    assert not same_weights(after.quantized, state.quantized)
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(state).items())
    assert [fact.name for fact in after.passes] == [
        "pretrain teacher", "pretrain student", "quantize", "self_study", step.name,
    ]  # fmt: skip
    assert all(ensured(after) is None for ensured in step.ensures)


@pytest.mark.parametrize("step", [SelfStudy(1), Tutoring(1), Distill(1)], ids=lambda step: step.name)
def test_the_teacher_is_untouched_by_all_but_co_study(ready: TrainState, step: Pass[TrainState]) -> None:
    after = step(ready)
    assert same_weights(after.teacher, ready.teacher)
    assert same_weights(after.student, ready.student)
    assert ready.teacher.training == after.teacher.training


def test_co_study_trains_the_teacher_too(ready: TrainState) -> None:
    after = CoStudy(1, keep_best_teacher=False)(ready)
    assert not same_weights(after.teacher, ready.teacher)
    assert after.history[-1].teacher_top1 is not None


def test_both_networks_get_the_others_response(ready: TrainState) -> None:
    plain = CoStudy(1, weight=0.0, teacher_weight=0.0, keep_best_teacher=False)(ready)
    to_student = CoStudy(1, weight=1.0, teacher_weight=0.0, keep_best_teacher=False)(ready)
    to_teacher = CoStudy(1, weight=0.0, teacher_weight=1.0, keep_best_teacher=False)(ready)
    assert same_weights(plain.teacher, to_student.teacher)
    assert same_weights(plain.quantized, to_teacher.quantized)
    assert not same_weights(plain.quantized, to_student.quantized)
    assert not same_weights(plain.teacher, to_teacher.teacher)


def test_co_study_without_responses_is_self_study(ready: TrainState) -> None:
    alone = CoStudy(2, weight=0.0, teacher_weight=0.0)(ready)
    torch.testing.assert_close(
        alone.student_to_train().state_dict(), SelfStudy(2)(ready).student_to_train().state_dict(), rtol=0, atol=1e-6
    )


def test_co_study_with_a_teacher_that_cannot_move_is_tutoring(ready: TrainState) -> None:
    still = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))  # no statistics that train mode would update
    state = replace(ready, teacher=still)
    together, under = CoStudy(2, teacher_learning_rate=0.0)(state), Tutoring(2)(state)
    assert same_weights(together.teacher, still)
    torch.testing.assert_close(
        together.student_to_train().state_dict(), under.student_to_train().state_dict(), rtol=0, atol=1e-6
    )


def test_co_study_with_the_teachers_statistics_at_rest_is_tutoring(ready: TrainState) -> None:
    assert any(isinstance(module, nn.BatchNorm2d) for module in ready.teacher.modules())
    still = CoStudy(2, teacher_learning_rate=0.0, teacher_statistics="running")(ready)
    assert same_weights(still.teacher, ready.teacher)
    torch.testing.assert_close(
        still.student_to_train().state_dict(), Tutoring(2)(ready).student_to_train().state_dict(), rtol=0, atol=1e-6
    )


def wrongly_labelled(state: TrainState) -> TrainState:
    """A training set that ruins whoever learns from it."""
    wrong = Split(state.data.train.images, np.random.default_rng(0).permutation(state.data.train.labels))
    return replace(state, data=replace(state.data, train=wrong))


def test_co_study_stops_when_the_teacher_falls_and_says_so(ready: TrainState, tmp_path: Path) -> None:
    state, before = wrongly_labelled(ready), top1(ready.teacher, ready.data.validation)
    stopping = CoStudy(9, teacher_learning_rate=0.5, largest_teacher_fall=10.0)
    kept = replace(state, session=Session((tmp_path,) * (len(state.passes) + 1)))
    after = stopping(kept)
    fact, curve = after.passes[-1], [p.teacher_top1 for p in after.history if p.pass_name == "co_study"]
    assert 1 <= fact.epochs == len(curve) < 9
    assert [before - score > 10 for score in curve if score is not None] == [False] * (fact.epochs - 1) + [True]
    assert fact.note is not None
    assert f"stopped after epoch {fact.epochs} of 9: the teacher validated at" in fact.note
    assert top1(after.teacher, ready.data.validation) >= before
    again = stopping(kept)  # from the checkpoint of the epoch it stopped at
    assert (again.passes[-1].note, again.passes[-1].epochs) == (fact.note, fact.epochs)
    assert same_weights(again.quantized, after.quantized)


def test_the_best_teacher_is_kept_when_co_study_ruins_it(ready: TrainState) -> None:
    state = wrongly_labelled(ready)
    options = {"epochs": 3, "teacher_learning_rate": 0.5, "largest_teacher_fall": 100.0}
    kept, ruined = CoStudy(**options)(state), CoStudy(**options, keep_best_teacher=False)(state)  # type: ignore[arg-type]
    before, validation = top1(ready.teacher, ready.data.validation), ready.data.validation
    assert top1(ruined.teacher, validation) < before
    assert top1(kept.teacher, validation) >= before


@pytest.mark.parametrize(
    "step",
    [*QUANTIZED_PASSES, Apprentice("A", 1), Apprentice("B", 1), Apprentice("C", 1), StatAssist(2, 1)],
    ids=lambda step: f"{step.name} {getattr(step, 'scheme', '')}",
)
def test_what_every_pass_leaves_is_frozen_element_by_element(ready: TrainState, step: Pass[TrainState]) -> None:
    student = step(ready).student_to_train()
    bad, elements = differing(student, ready.data.test.images)
    assert bad == 0
    assert elements > 1000


def test_qat_is_self_study_and_distill_is_convex_tutoring(ready: TrainState) -> None:
    assert same_weights(Qat(1)(ready).quantized, SelfStudy(1)(ready).quantized)
    convex = Tutoring(1, weight=0.7, form="convex")(ready)
    assert same_weights(Distill(1)(ready).quantized, convex.quantized)


def test_quantizing_starts_close_to_the_float_student() -> None:
    state = Quantize(calibration_images=64, norm_batches=3)(Pretrain("student", 8)(tiny_state(bits="W8A8")))
    reached = state.passes[-1].validation_top1
    assert reached is not None
    assert reached >= top1(state.student, state.data.validation) - 5


def test_the_rules_tell_what_is_missing() -> None:
    fresh = tiny_state()
    assert teacher_is_trained(fresh) == "no pass has trained the teacher"
    assert student_is_quantized(fresh) == "no pass has quantized the student"
    trained = Pretrain("student", 1)(fresh)
    assert student_is_trained(trained) is None
    with torch.no_grad():
        next(trained.student.parameters()).fill_(torch.nan)
    assert "NaN" in (student_is_trained(trained) or "")


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([Quantize()], "pass 1 'quantize'.*The float student has been trained"),
        ([Pretrain("teacher", 1), SelfStudy(1)], "'self_study'.*student is quantized"),
        ([Pretrain("student", 1), Quantize(), Tutoring(1)], "'tutoring'.*teacher has been trained"),
        ([Pretrain("student", 1), Quantize(), Pretrain("student", 1)], "pass 3 'pretrain'.*student is quantized"),
        ([Pretrain("student", 1), Quantize(), Quantize()], "pass 3 'quantize'.*student is quantized"),
        ([StatAssist(2, 1), StatAssist(2, 1)], "pass 2 'stat_assist'.*student is quantized"),
    ],
)
def test_a_wrong_order_is_refused_before_the_first_epoch(passes: list[Pass[TrainState]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_order(passes)


def test_the_paper_s_teacher_of_points_is_the_float_student() -> None:
    start = [Pretrain("student", 1), Quantize()]
    check_passes([*start, QuantizationPoints(1, teacher="student")])
    with pytest.raises(RecipeError, match=r"'quantization_points'.*teacher has been trained"):
        check_passes([*start, QuantizationPoints(1)])
    with pytest.raises(RecipeError, match="float student has been trained"):
        check_passes([Pretrain("teacher", 1), Apprentice("B", 1), QuantizationPoints(1, teacher="student")])


@pytest.mark.parametrize(
    ("before", "step", "network"),
    [
        ("student", Apprentice("B", 1), "student"),
        ("student", StatAssist(2, 1), "student"),
        ("teacher", Apprentice("A", 1), "teacher"),
    ],
)
def test_what_starts_from_first_weights_comes_behind_no_training(
    before: Literal["teacher", "student"], step: Pass[TrainState], network: str
) -> None:
    start = [Pretrain("teacher", 1), Pretrain(before, 1)]
    with pytest.raises(RecipeError, match=f"pass 3 '{step.name}' .* must not find “The .*{network} has been trained"):
        check_passes([*start, step])
    with pytest.raises(RecipeError, match=r"pass 1 .* must not find"):
        check_passes([step], ("teacher", "student"))


def test_a_recipe_that_quantizes_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="no pass quantizes the student"):
        check_passes([Pretrain("student", 1)])


def test_the_whole_of_qkd_runs_in_order() -> None:
    passes = build_train_passes([
        {"name": "pretrain", "network": "teacher", "epochs": 1},
        {"name": "pretrain", "network": "student", "epochs": 1},
        {"name": "quantize", "calibration_images": 32},
        {"name": "self_study", "epochs": 1},
        {"name": "co_study", "epochs": 1},
        {"name": "tutoring", "epochs": 1},
        {"name": "re_estimate_batch_norm"},
    ])  # fmt: skip
    check_passes(passes)
    state = run_passes(passes, tiny_state())
    assert [point.pass_name for point in state.history] == [
        "pretrain teacher",
        "pretrain student",
        "self_study",
        "co_study",
        "tutoring",
    ]
    assert student_is_quantized(state) is None


def test_all_faults_of_a_recipes_passes_are_reported_together() -> None:
    tables = [
        {"name": "pretrain", "network": "nobody", "epochs": 0},
        {"name": "tutor"},
        {"name": "qat", "epochs": 1.5, "temperature": 2},
        {"name": "tutoring", "epochs": 1, "form": "convex", "weight": 3.0},
        {"name": "co_study", "epochs": 1, "form": "convex"},
        {"name": "stat_assist", "epochs": 2, "float_epochs": 2},
        {"name": "distill", "epochs": 1, "temperature": math.inf},
    ]
    with pytest.raises(RecipeError) as caught:
        build_train_passes(tables)
    for part in (
        "passes[0] (pretrain).network", "passes[0] (pretrain).epochs",
        "passes[1].name is 'tutor'; known passes: pretrain", "passes[2] (qat).epochs", "passes[2] (qat).temperature",
        "passes[3]: tutoring.weight is 3;", "passes[4]: co_study.weight is 1;",
        "passes[5]: stat_assist.float_epochs is 2", "passes[6] (distill).temperature",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_names_of_passes_are_unique_and_lower_case() -> None:
    names = [kind.name for kind in TRAIN_PASSES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)
