"""Which training method is worth its cost: every pass, four formats, three seeds, equal student updates, losers kept.

`python -m benchmarks.study` trains on scikit-learn's digits, `--cifar FOLDER` on a CIFAR-10 in parquet files, which
takes hours of a core: `--nets`, `--bits`, `--methods` and `--seeds` choose arms, several processes may share `--out`;
`--epochs` trains the quantized students longer, at the rates of the recipes for ternary and W2A2, `--float-epochs` the
float one that they start from. Finished arms are read back, not repeated, and rows of the record that are not measured
again stay in it. On CIFAR-10 all arms start from one float teacher and, at equal float epochs, from one float student,
so the spread is that of the quantized training alone. Scores are the integer graph's. Choices between arms use `val`;
every arm is tested once, at its end.
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from benchmarks.record import kept_rows, write_record
from benchmarks.study_arms import DIGITS, QUANTIZE, PassTable, Setting, as_recipe, cifar, control, long, methods
from qkd.base.files import write_atomic
from qkd.base.progress import Silent
from qkd.bits import Bits
from qkd.data.datasets import Split
from qkd.errors import InvariantError
from qkd.graph.reference import run_in_batches
from qkd.passes import build_train_passes
from qkd.student.freeze import freeze
from qkd.student.student import QuantStudent
from qkd.train.evaluation import classes_of, top1
from qkd.train.state import TrainState
from qkd.train.training_run import train
from qkd.train.weights_file import save_weights

FORMATS = ("ternary-A8", "W2A2", "W4A4", "W4A8")
SEEDS = (0, 1, 2)
KEY = ("data", "net", "bits", "method", "float_epochs", "epochs", "seed")
CHECKED = 100
"""Images on which the integer graph itself is run: exact mode, which scores the rest, must choose the same classes."""


def with_weights(s: Setting, out: Path) -> Setting:
    """The setting with one float teacher for all students and one float student for all arms, of the first seed."""
    files = {"teacher": out / "teacher.safetensors", "student": out / s.net / f"student_{s.float_epochs}.safetensors"}
    there = {name: getattr(s, name) | {"weights": str(path.resolve())} for name, path in files.items() if path.exists()}
    s = replace(s, **there)
    if len(there) == len(files):
        return s
    recipe = as_recipe(s, [*s.start(), QUANTIZE], "W8A8", SEEDS[0])
    state = train(recipe, build_train_passes(recipe.passes), Bits.parse("W8A8"), out / s.net, Silent())
    for name in files.keys() - there.keys():
        save_weights(getattr(state, name), files[name])
    return with_weights(s, out)


def main() -> None:
    """Run the chosen arms, one after the other, and write the record after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--nets", nargs="+", default=["resnet8", "resnet20"], help="students on CIFAR-10")
    parser.add_argument("--bits", nargs="+", default=["float", *FORMATS])
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--float-epochs", type=int, default=44, help="of the float student, on CIFAR-10")
    parser.add_argument("--epochs", type=int, help="of the quantized student, on CIFAR-10; default: 3")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the arms")
    options = parser.parse_args()
    for setting in _settings(options):
        for bits, method, tables in _chosen(setting, options.bits, options.methods):
            for seed in options.seeds:
                arm(setting, method, tables, bits, seed, options.out)
                path = collect(options.out)
    print(path)


def _settings(options: argparse.Namespace) -> Iterator[Setting]:
    if options.cifar is None:
        yield DIGITS
        return
    for net in options.nets:
        setting = with_weights(cifar(options.cifar, net, options.float_epochs), options.out)
        yield long(setting, options.epochs) if options.epochs else setting


def _chosen(s: Setting, formats: list[str], names: list[str] | None) -> Iterator[tuple[str, str, list[PassTable]]]:
    for bits in formats:
        for method, tables in ({"float": control(s)} if bits == "float" else methods(s, bits)).items():
            if names is None or method in names:
                yield bits, method, tables


def arm(setting: Setting, method: str, tables: list[PassTable], bits: str, seed: int, out: Path) -> None:
    """Train one arm and write its row, unless that is done; `core_seconds` leaves out what other arms had trained.

    An arm that was interrupted has none: what the processes before this one spent is not known.
    """
    own = [table for table in tables if table not in setting.start()]
    epochs = sum(table.get("epochs", 0) for table in own)
    float_epochs = setting.float_epochs if QUANTIZE in tables else 0
    key = (setting.data["name"], setting.net, bits, method, float_epochs, epochs, seed)
    row_file = out / "rows" / f"{'-'.join(map(str, key))}.json"
    if row_file.exists():
        return
    started, core_started = time.perf_counter(), time.process_time()
    recipe = as_recipe(setting, tables, "W8A8" if bits == "float" else bits, seed)
    folder = out / setting.net
    state = train(recipe, build_train_passes(recipe.passes), Bits.parse(recipe.bits[0]), folder, Silent())
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - core_started
    scores = float_scores(state) if bits == "float" else integer_scores(state)
    updates = [fact for fact, table in zip(state.passes, tables, strict=True) if table in own]
    row = {
        **dict(zip(KEY, key, strict=True)),
        **scores,
        "core_seconds": core_seconds if sum(fact.seconds for fact in updates if fact.epochs) <= seconds else None,
        "notes": [fact.note for fact in updates if fact.note],
    }
    write_atomic(row_file, json.dumps(row) + "\n")
    print(row, flush=True)


def float_scores(state: TrainState) -> dict[str, float]:
    """Top-1 of the float student in percent."""
    splits = {"val": state.data.validation, "test": state.data.test}
    return {name: top1(state.student, split) for name, split in splits.items()}


def integer_scores(state: TrainState) -> dict[str, float]:
    """Top-1 of the integer graph in percent, computed in exact mode; InvariantError where the two differ."""
    student, splits = state.student_to_train(), {"val": state.data.validation, "test": state.data.test}
    with student.running("exact"):
        _check_exact(student, splits["test"])
        return {name: top1(student, split) for name, split in splits.items()}


def _check_exact(student: QuantStudent, split: Split) -> None:
    classes = run_in_batches(freeze(student, "study"), split.codes()[:CHECKED]).argmax(axis=1)
    if not np.array_equal(classes, classes_of(student, split.images[:CHECKED])):
        raise InvariantError(f"exact mode and the integer graph differ on the first {CHECKED} test images")


def collect(out: Path) -> Path:
    """Write the record: every row under `out`, and rows that stood in it before."""
    rows = [json.loads(path.read_text()) for path in sorted((out / "rows").glob("*.json"))]
    rows = sorted(rows + kept_rows("study", rows, KEY), key=lambda row: [str(row[k]) for k in KEY])
    return write_record("study", rows, over_seeds=over_seeds(rows))


def over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation of each method and format; differences are paired by seed and all epochs."""
    test = {_control(row, (row["bits"], row["method"])): row["test"] for row in rows}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in KEY[:-1]), []).append(row)
    return [
        {
            **dict(zip(KEY[:-1], key, strict=True)),
            "seeds": len(found),
            **_spread("val", [row["val"] for row in found]),
            **_spread("test", [row["test"] for row in found]),
            **_spread("over_qat", _differences(test, found, (key[2], "qat"))),
            **_spread("over_float", _differences(test, found, ("float", "float"))),
            "core_seconds": _median([row["core_seconds"] for row in found]),
        }
        for key, found in groups.items()
    ]


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _control(row: Mapping[str, Any], other: tuple[str, str]) -> tuple[Any, ...]:
    """What names the arm of another format and method with this one's seed and updates, float ones included."""
    return row["data"], row["net"], *other, row["epochs"] + row["float_epochs"], row["seed"]


def _differences(
    test: Mapping[tuple[Any, ...], float], rows: list[dict[str, Any]], other: tuple[str, str]
) -> list[float]:
    """Of test scores to those of another format and method at the same seed, where there are such."""
    pairs = ((row["test"], test.get(_control(row, other))) for row in rows)
    return [own - control for own, control in pairs if control is not None]


def _spread(name: str, values: list[float]) -> dict[str, float | None]:
    return {
        f"{name}_mean": mean(values) if values else None,
        f"{name}_sd": stdev(values) if len(values) > 1 else None,
    }


if __name__ == "__main__":
    main()
