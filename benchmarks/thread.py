"""The whole thread as a benchmark: recipes run to the end, their proofs and accuracies in results/thread.json.

`python -m benchmarks.thread` takes about an hour and a half of two cores. A finished run is not trained again, only
proved with the kernels of today.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from benchmarks.record import write_record
from qkd.compile import compile_recipe, prove_again
from qkd.progress import Bars
from qkd.results import Row, RunResult, rows

RECIPES = Path(__file__).parent / "recipes"
DIGITS_SEEDS = (0, 1, 2)
CIFAR_RECIPES = ("cifar10_resnet8_w4a8", "cifar10_resnet8_ternary")


def main() -> None:
    """Run what was asked for and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits-only", action="store_true", help="leave CIFAR-10 out (and its rows as they are)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs")
    options = parser.parse_args()
    runs = [_run("digits", seed, options.out) for seed in DIGITS_SEEDS]
    if not options.digits_only:
        runs += [_run(name, 0, options.out) for name in CIFAR_RECIPES]
    path = write_record("thread", [{"seed": s, **r.model_dump()} for s, run in runs for r in rows(run)],
                        digits_over_seeds=_over_seeds([run for _, run in runs[: len(DIGITS_SEEDS)]]))  # fmt: skip
    print(path)


def _run(name: str, seed: int, out: Path) -> tuple[int, RunResult]:
    """The finished run in its folder, proved with the kernels of today, or a new one."""
    folder = out / (name if seed == 0 else f"{name}_seed{seed}")
    if (folder / "results.json").exists():
        return seed, prove_again(folder, Bars())
    result, _ = compile_recipe(RECIPES / f"{name}.toml", (f"train.seed={seed}",), folder, Bars())
    return seed, result


def _over_seeds(results: list[RunResult]) -> list[dict[str, object]]:
    """Mean and sample standard deviation of top-1 over the seeds, and the gap to the float student."""
    by_bits: dict[str, list[Row]] = defaultdict(list)
    for result in results:
        for bits in {row.bits for row in rows(result)}:
            by_bits[bits].append(next(row for row in rows(result) if row.bits == bits))
    return [
        {
            "bits": bits,
            "seeds": len(found),
            "top1_float_mean": mean(r.top1_float for r in found),
            "top1_integer_mean": mean(r.top1_integer for r in found),
            "top1_integer_sd": stdev(r.top1_integer for r in found),
            "points_below_float": mean(r.top1_float - r.top1_integer for r in found),
        }
        for bits, found in sorted(by_bits.items())
    ]


if __name__ == "__main__":
    main()
