"""The study compares what it says: equal updates, differences paired by seed, and the recipes are arms of it."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import study
from benchmarks.study import FORMATS, over_seeds
from benchmarks.study_arms import DIGITS, Setting, as_recipe, cifar, control, long, methods
from qkd.passes import build_train_passes
from qkd.recipe import load_recipe
from qkd.train.history import PassFact
from qkd.train.training_run import check_passes

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes"
CIFAR = cifar(Path(), "resnet8")


@pytest.mark.parametrize("setting", [DIGITS, CIFAR, long(CIFAR, 12)], ids=["digits", "cifar", "long"])
@pytest.mark.parametrize("bits", FORMATS)
def test_every_method_is_a_recipe_with_the_same_updates_of_the_student(setting: Setting, bits: str) -> None:
    for method, tables in (methods(setting, bits) | {"float": control(setting)}).items():
        check_passes(build_train_passes(as_recipe(setting, tables, bits, 0).passes))
        epochs = sum(table.get("epochs", 0) for table in tables if table.get("network") != "teacher")
        assert epochs == setting.float_epochs + setting.epochs, method


@pytest.mark.parametrize("scheme", ["a", "b", "c"])
def test_an_arm_gets_trained_weights_only_where_it_goes_on_from_them(scheme: str) -> None:
    given = replace(CIFAR, teacher=CIFAR.teacher | {"weights": "t"}, student=CIFAR.student | {"weights": "s"})
    arm = as_recipe(given, methods(given, "W4A8")[f"apprentice_{scheme}"], "W4A8", 0)
    trained = {"a": (None, None), "b": ("t", None), "c": ("t", "s")}[scheme]
    assert tuple(spec.weights and Path(spec.weights).name for spec in (arm.teacher, arm.student)) == trained


@pytest.mark.parametrize(
    ("recipe", "setting", "bits"),
    [
        ("cifar10_resnet8_w4a8", CIFAR, "W4A8"),
        ("cifar10_resnet8_ternary", long(cifar(Path(), "resnet8", 28), 14), "ternary-A8"),
        ("cifar10_resnet8_w2a2", long(CIFAR, 24), "W2A2"),
    ],
)
def test_the_recipes_for_cifar_are_arms_of_the_study(recipe: str, setting: Setting, bits: str) -> None:
    found = load_recipe(RECIPES / f"{recipe}.toml")
    arm = as_recipe(setting, methods(setting, bits)["apprentice_c"], bits, 0)
    assert found.passes == arm.passes
    assert found.train.model_copy(update={"threads": 1}) == arm.train
    assert (found.teacher, found.student) == (arm.teacher, arm.student)


def row(method: str, seed: int, test: float, bits: str = "W4A8", **changes: Any) -> dict[str, Any]:
    return {
        "data": "digits", "net": "n", "bits": bits, "method": method, "epochs": 3, "seed": seed, "float_epochs": 44,
        "val": test + 1, "test": test, "core_seconds": 1.0,
    } | changes  # fmt: skip


def test_differences_are_paired_by_seed_and_total_updates() -> None:
    rows = [row("qat", 0, 80.0), row("qat", 1, 90.0), row("kd", 0, 81.0), row("kd", 1, 92.0), row("kd", 2, 10.0)]
    rows += [row("float", 0, 85.0, "float"), row("scratch", 0, 70.0, epochs=47, float_epochs=0)]
    found = {group["method"]: group for group in over_seeds(rows)}
    assert (found["kd"]["over_qat_mean"], found["kd"]["seeds"]) == (1.5, 3)
    assert found["kd"]["over_float_mean"] == -4.0
    assert found["scratch"]["over_qat_mean"] == -10.0
    assert (found["qat"]["test_mean"], found["qat"]["val_mean"], found["float"]["over_qat_mean"]) == (85.0, 86.0, None)


def test_another_budget_is_no_control() -> None:
    (longer, _) = over_seeds([row("qat", 0, 80.0, epochs=16), row("qat", 0, 70.0)])
    assert (longer["over_qat_mean"], longer["over_float_mean"]) == (0.0, None)


@pytest.mark.parametrize("bits", ["W4A8", "float"])
@pytest.mark.parametrize(("seconds", "known"), [(0.0, True), (1e6, False)])
def test_an_interrupted_arm_has_scores_but_no_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, known: bool, bits: str
) -> None:
    tables = control(DIGITS) if bits == "float" else methods(DIGITS, bits)["qat"]
    facts = [PassFact(name=t["name"], epochs=t.get("epochs", 0), seconds=seconds, validation_top1=None) for t in tables]
    monkeypatch.setattr(study, "train", lambda *_: SimpleNamespace(passes=facts))
    for scores in ("integer_scores", "float_scores"):
        monkeypatch.setattr(study, scores, lambda _: {"val": 90.0, "test": 80.0})
    study.arm(DIGITS, "qat", tables, bits, 0, tmp_path)
    (file,) = (tmp_path / "rows").glob("*.json")
    found = json.loads(file.read_text())
    assert (found["test"], found["core_seconds"] is not None) == (80.0, known)
    assert over_seeds([found, found | {"seed": 1, "core_seconds": 7.0}])[0]["core_seconds"] is not None
