"""Arms of the study: the settings that methods share, every method's passes, and the recipe of an arm."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from qkd.passes import build_train_passes
from qkd.recipe import Recipe, parse_recipe
from qkd.train.state import student_is_trained, teacher_is_trained

PassTable: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A data set, a student, and the epochs and rates that all methods share there."""

    data: dict[str, Any]
    student: dict[str, Any]
    teacher: dict[str, Any]
    teacher_epochs: int
    float_epochs: int
    """Of the student before quantization; methods that start from random weights get them on top."""
    epochs: int
    """Of the quantized student."""
    train: dict[str, Any]
    float_rate: float
    rate: float
    tuning: Mapping[str, PassTable] = field(default_factory=dict)
    """What the recipe of a format sets differently; all methods share it."""

    @property
    def net(self) -> str:
        """The student's name."""
        return str(self.student["model"])

    def pretrain(self, network: str) -> list[PassTable]:
        """Float training of the teacher or the student, where it does not come with weights."""
        given = self.teacher if network == "teacher" else self.student
        epochs = self.teacher_epochs if network == "teacher" else self.float_epochs
        table = {"name": "pretrain", "network": network, "epochs": epochs, "learning_rate": self.float_rate}
        return [] if "weights" in given else [table]

    def start(self) -> list[PassTable]:
        """Both networks trained in float."""
        return self.pretrain("teacher") + self.pretrain("student")

    def fine_tuned(self, *steps: PassTable) -> list[PassTable]:
        """Both networks trained in float, the student quantized, then `steps`."""
        return [*self.start(), QUANTIZE, *steps, RE_ESTIMATE]

    def from_scratch(self, step: PassTable, *before: PassTable) -> list[PassTable]:
        """A step that makes its own quantized student; it gets the float epochs too, so updates are equal."""
        total = {"epochs": self.float_epochs + self.epochs, "learning_rate": self.float_rate}
        return [*before, step | total, RE_ESTIMATE]


QUANTIZE: PassTable = {"name": "quantize"}
RE_ESTIMATE: PassTable = {"name": "re_estimate_batch_norm"}

DIGITS = Setting(
    data={"name": "digits", "validation": 300, "crop_padding": 1},
    student={"model": "digits_student"}, teacher={"model": "digits_teacher"},
    teacher_epochs=10, float_epochs=20, epochs=20,
    train={"batch_size": 64, "threads": 1}, float_rate=0.1, rate=0.03,
)  # fmt: skip


def cifar(folder: Path, student: str, float_epochs: int = 44) -> Setting:
    """CIFAR-10 at the length that hours of two cores allow."""
    return Setting(
        data={"name": "cifar10", "path": str(folder.resolve()), "validation": 5000, "crop_padding": 2, "flip": True},
        student={"model": student}, teacher={"model": "speedy_net"},
        teacher_epochs=6, float_epochs=float_epochs, epochs=3,
        train={
            "batch_size": 64, "weight_decay": 1e-4, "mixed_precision": True, "compile": True, "validate_every": 4,
            "threads": 1,
        },
        float_rate=0.2, rate=0.02,
    )  # fmt: skip


def long(s: Setting, epochs: int) -> Setting:
    """The setting with more epochs, and the rates and step rates of the recipes for ternary and W2A2."""
    return replace(s, epochs=epochs, tuning={"W2A2": {"learning_rate": 0.1}, "ternary-A8": {"step_rate": 1.0}})


def methods(s: Setting, bits: str) -> Mapping[str, list[PassTable]]:
    """Every method's passes."""
    shared = {"learning_rate": s.rate} | s.tuning.get(bits, {})
    tuned = {"epochs": s.epochs} | shared
    third = max(1, s.epochs // 4)
    phases = {"self_study": third, "co_study": max(1, s.epochs * 2 // 5), "tutoring": 0}
    phases["tutoring"] = s.epochs - sum(phases.values())
    qkd = [{"name": name, "epochs": epochs} | shared for name, epochs in phases.items()]
    return {
        "qat": s.fine_tuned({"name": "qat"} | tuned),
        **{f"kd_t{t}": s.fine_tuned({"name": "distill", "temperature": float(t)} | tuned) for t in (2, 1, 4)},
        "qkd": s.fine_tuned(*qkd),
        "apprentice_c": s.fine_tuned({"name": "apprentice", "scheme": "C"} | tuned),
        "quantized_distillation": s.fine_tuned({"name": "quantized_distillation"} | tuned),
        "quantization_points": s.fine_tuned({"name": "quantization_points"} | tuned),
        "quantization_points_alone": s.fine_tuned({"name": "quantization_points", "train": "points"} | tuned),
        "quantization_points_alternate": s.fine_tuned({"name": "quantization_points", "train": "alternate"} | tuned),
        "apprentice_a": s.from_scratch({"name": "apprentice", "scheme": "A"}),
        "apprentice_b": s.from_scratch({"name": "apprentice", "scheme": "B"}, *s.pretrain("teacher")),
        "stat_assist": s.from_scratch({"name": "stat_assist", "float_epochs": s.float_epochs}),
    }


def control(s: Setting) -> list[PassTable]:
    """Float training with the updates and rates of all methods; its quantized student is not looked at."""
    tuned = {"name": "pretrain", "network": "student", "epochs": s.epochs, "learning_rate": s.rate}
    return [*s.start(), tuned, QUANTIZE]


def as_recipe(setting: Setting, tables: list[PassTable], bits: str, seed: int) -> Recipe:
    """The recipe of one arm, without the trained weights of networks that it trains from their first ones."""
    anew = {rule for step in build_train_passes(tables) for rule in step.forbids}
    given = {
        role: {"model": spec["model"]} if trained in anew else spec
        for role, spec, trained in (
            ("teacher", setting.teacher, teacher_is_trained), ("student", setting.student, student_is_trained)
        )
    }  # fmt: skip
    table = {
        "name": "study", "bits": [bits], "devices": ["host"], "data": setting.data, **given,
        "train": setting.train | {"seed": seed}, "passes": tables,
    }  # fmt: skip
    return parse_recipe(table, "benchmarks/study_arms.py")
