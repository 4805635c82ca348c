"""Which training method is worth its cost: every pass, four formats, three seeds, equal student updates, losers kept.

`python -m benchmarks.study` trains on scikit-learn's digits. `--cifar FOLDER` does the same with ResNet-8 and ResNet-20
on a CIFAR-10 in parquet files, which takes days of two cores. Finished arms are read back, not repeated; the record is
written after each one. Scores are the integer graph's. Choices between arms (the temperature) use `val`; every arm is
tested once, at its end.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.record import write_record
from qkd.bits import Bits
from qkd.datasets import Split
from qkd.freeze import freeze
from qkd.graph import QuantGraph
from qkd.passes import build_train_passes
from qkd.progress import Silent
from qkd.recipe import Recipe, parse_recipe
from qkd.reference import run_in_batches
from qkd.training_run import train

FORMATS = ("W4A8", "W4A4", "ternary-A8", "W2A2")
SEEDS = (0, 1, 2)
PassTable = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A data set, a student, and the epochs and rates that all methods share there."""

    data: dict[str, Any]
    student: str
    teacher: dict[str, Any]
    teacher_epochs: int
    float_epochs: int
    """Of the student before quantization; methods that start from random weights get them on top."""
    epochs: int
    """Of the quantized student."""
    train: dict[str, Any]
    float_rate: float
    rate: float

    def pretrain(self, network: str) -> PassTable:
        """Float training of the teacher or the student."""
        epochs = self.teacher_epochs if network == "teacher" else self.float_epochs
        return {"name": "pretrain", "network": network, "epochs": epochs, "learning_rate": self.float_rate}

    def fine_tuned(self, *steps: PassTable) -> list[PassTable]:
        """Both networks trained in float, the student quantized, then `steps`."""
        return [self.pretrain("teacher"), self.pretrain("student"), {"name": "quantize"}, *steps, RE_ESTIMATE]

    def from_scratch(self, step: PassTable) -> list[PassTable]:
        """A step that makes its own quantized student; it gets the float epochs too, so updates are equal."""
        total = {"epochs": self.float_epochs + self.epochs, "learning_rate": self.float_rate}
        return [self.pretrain("teacher"), step | total, RE_ESTIMATE]


RE_ESTIMATE: PassTable = {"name": "re_estimate_batch_norm"}

DIGITS = Setting(
    data={"name": "digits", "validation": 300, "crop_padding": 1},
    student="digits_student", teacher={"model": "digits_teacher"},
    teacher_epochs=10, float_epochs=20, epochs=20,
    train={"batch_size": 64, "threads": 1}, float_rate=0.1, rate=0.03,
)  # fmt: skip


def cifar(folder: Path, student: str) -> Setting:
    """CIFAR-10 at the length of the default recipe."""
    return Setting(
        data={"name": "cifar10", "path": str(folder.resolve()), "validation": 5000, "crop_padding": 2, "flip": True},
        student=student, teacher={"model": "speedy_net"},
        teacher_epochs=10, float_epochs=20, epochs=10,
        train={"batch_size": 64, "mixed_precision": True, "compile": True, "threads": 1}, float_rate=0.2, rate=0.02,
    )  # fmt: skip


def methods(s: Setting) -> Mapping[str, list[PassTable]]:
    """Every method's passes."""
    tuned = {"epochs": s.epochs, "learning_rate": s.rate}
    thirds = (s.epochs // 5, 3 * s.epochs // 10)
    phases = {"self_study": thirds[0], "co_study": thirds[1], "tutoring": s.epochs - sum(thirds)}
    qkd = [{"name": name, "epochs": epochs, "learning_rate": s.rate} for name, epochs in phases.items()]
    return {
        "qat": s.fine_tuned({"name": "qat"} | tuned),
        **{f"kd_t{t}": s.fine_tuned({"name": "distill", "temperature": float(t)} | tuned) for t in (1, 2, 4)},
        "qkd": s.fine_tuned(*qkd),
        "apprentice_a": s.from_scratch({"name": "apprentice", "scheme": "A"}),
        "apprentice_b": s.from_scratch({"name": "apprentice", "scheme": "B"}),
        "apprentice_c": s.fine_tuned({"name": "apprentice", "scheme": "C"} | tuned),
        "quantized_distillation": s.fine_tuned({"name": "quantized_distillation"} | tuned),
        "quantization_points": s.fine_tuned({"name": "quantization_points"} | tuned),
        "quantization_points_alone": s.fine_tuned({"name": "quantization_points", "train": "points"} | tuned),
        "quantization_points_alternate": s.fine_tuned({"name": "quantization_points", "train": "alternate"} | tuned),
        "stat_assist": s.from_scratch({"name": "stat_assist", "float_epochs": s.float_epochs}),
    }


def main() -> None:
    """Run all arms of the chosen setting; rows of other data in the record are lost, so run one setting a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the arms")
    options = parser.parse_args()
    settings = [cifar(options.cifar, net) for net in ("resnet8", "resnet20")] if options.cifar else [DIGITS]
    record = "study_cifar10" if options.cifar else "study"
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        for setting in settings:
            for bits in FORMATS:
                for method, tables in methods(setting).items():
                    rows.append(arm(setting, method, tables, bits, seed, options.out))
                    path = write_record(record, rows, over_seeds=over_seeds(rows))
    print(path)


def arm(setting: Setting, method: str, tables: list[PassTable], bits: str, seed: int, out: Path) -> dict[str, Any]:
    """Train one arm, or read it back, and score its integer graph."""
    recipe = as_recipe(setting, tables, bits, seed)
    state = train(recipe, build_train_passes(recipe.passes), Bits.parse(bits), out / setting.student, Silent())
    graph = freeze(state.student_to_train(), "study")
    updates = [fact for fact, table in zip(state.passes, tables, strict=True) if table["name"] != "pretrain"]
    return {
        "data": setting.data["name"],
        "net": setting.student,
        "bits": bits,
        "method": method,
        "epochs": sum(fact.epochs for fact in updates),
        "float_epochs": setting.float_epochs if any(t["name"] == "quantize" for t in tables) else 0,
        "seed": seed,
        "val": score(graph, state.data.validation),
        "test": score(graph, state.data.test),
        "seconds": sum(fact.seconds for fact in updates),
        "notes": [fact.note for fact in updates if fact.note],
    }


def as_recipe(setting: Setting, tables: list[PassTable], bits: str, seed: int) -> Recipe:
    """The recipe of one arm."""
    table = {
        "name": "study", "bits": [bits], "devices": ["host"], "data": setting.data, "teacher": setting.teacher,
        "student": {"model": setting.student}, "train": setting.train | {"seed": seed}, "passes": tables,
    }  # fmt: skip
    return parse_recipe(table, "benchmarks/study.py")


def score(graph: QuantGraph, split: Split) -> float:
    """Top-1 of the integer graph in percent."""
    return 100.0 * float((run_in_batches(graph, split.codes()).argmax(axis=1) == split.labels).mean())


def over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation of each method and format."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["net"], row["bits"], row["method"]), []).append(row)
    return [
        {
            **dict(zip(("data", "net", "bits", "method"), key, strict=True)),
            "seeds": len(found),
            **{f"{split}_mean": mean(row[split] for row in found) for split in ("val", "test")},
            "test_sd": stdev(row["test"] for row in found) if len(found) > 1 else None,
            "seconds_mean": mean(row["seconds"] for row in found),
        }
        for key, found in groups.items()
    ]


if __name__ == "__main__":
    main()
