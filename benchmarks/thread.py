"""The whole thread as a benchmark: recipes run to the end, their proofs and accuracies in results/thread.json.

`python -m benchmarks.thread` takes about two hours of two cores. A finished run is not trained again, only proved
with the kernels of today; rows that are not measured again stay.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.record import kept_rows, write_record
from qkd.base.progress import Bars
from qkd.compile import compile_recipe, prove_again
from qkd.proof.results import RunResult, rows

RECIPES = Path(__file__).parent / "recipes"
DIGITS_SEEDS = (0, 1, 2)
CIFAR_RUNS: Mapping[str, tuple[str, ...]] = {
    "cifar10_resnet8_w4a8": ("cifar10_resnet8_w4a8",),
    "cifar10_resnet8_w4a4": ("cifar10_resnet8_w4a8", 'bits=["W4A4"]', 'devices=["host", "cortex_m4"]'),
    "cifar10_resnet8_ternary": ("cifar10_resnet8_ternary",),
    "cifar10_resnet8_w2a2": ("cifar10_resnet8_w2a2",),
}
"""Folder, recipe and changes to it; W4A4 is trained as W4A8 is."""


def main() -> None:
    """Run what was asked for and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=("digits", *CIFAR_RUNS), help="runs; rows of others stay as they are"
    )
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs")
    options = parser.parse_args()
    runs = [(seed, _run(options.out / _digits_folder(seed), "digits", f"train.seed={seed}"))
            for seed in DIGITS_SEEDS if "digits" in options.only]  # fmt: skip
    runs += [(0, _run(options.out / folder, *run))
             for folder, run in CIFAR_RUNS.items() if folder in options.only]  # fmt: skip
    found = [{"seed": s, **r.model_dump()} for s, run in runs for r in rows(run)]
    found += kept_rows("thread", found, ("recipe", "seed", "bits", "core"))
    print(write_record("thread", found, digits_over_seeds=_over_seeds(found)))


def _digits_folder(seed: int) -> str:
    return f"digits_seed{seed}" if seed else "digits"


def _run(folder: Path, recipe: str, *changes: str) -> RunResult:
    """The finished run in its folder, proved with the kernels of today, or a new one."""
    if (folder / "results.json").exists():
        return prove_again(folder, Bars())
    return compile_recipe(RECIPES / f"{recipe}.toml", changes, folder, Bars())[0]


def _over_seeds(found: list[dict[str, Any]]) -> list[dict[str, object]]:
    """Mean and sample standard deviation of top-1 over the seeds of the digits, and the gap to the float student."""
    by_bits: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in found:
        if row["recipe"] == "digits":
            by_bits[row["bits"]][row["seed"]] = row  # all devices compute the same
    return [
        {
            "bits": bits,
            "seeds": len(seeds),
            "top1_float_mean": mean(row["top1_float"] for row in seeds.values()),
            "top1_integer_mean": mean(row["top1_integer"] for row in seeds.values()),
            "top1_integer_sd": stdev(row["top1_integer"] for row in seeds.values()),
            "points_below_float": mean(row["top1_float"] - row["top1_integer"] for row in seeds.values()),
        }
        for bits, seeds in sorted(by_bits.items())
    ]


if __name__ == "__main__":
    main()
