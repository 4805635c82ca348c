"""Kill training with signal 9 at random moments, start it again, and compare what comes out with a run left alone.

`python -m benchmarks.kill_resume` kills twenty times in each mode: eager in float32 on one thread, and as the recipes
for CIFAR-10 train, compiled in bfloat16 on two. results/kill_resume.json says whether every hash is the same.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.record import kept_rows, write_record
from qkd.base.progress import Silent
from qkd.bits import Bits
from qkd.passes import build_train_passes
from qkd.recipe import parse_recipe
from qkd.train.digests import digest, network_sha256
from qkd.train.training_run import train

KILLS = 20
MODES: Mapping[str, Mapping[str, Any]] = {
    "eager": {"threads": 1}, "compiled": {"threads": 2, "compile": True, "mixed_precision": True}
}  # fmt: skip
BEGUN = "begun"
PASSES = [
    {"name": "pretrain", "network": "teacher", "epochs": 3, "learning_rate": 0.1},
    {"name": "pretrain", "network": "student", "epochs": 3, "learning_rate": 0.1},
    {"name": "quantize"},
    {"name": "self_study", "epochs": 2},
    {"name": "co_study", "epochs": 3},
    {"name": "tutoring", "epochs": 3},
    {"name": "quantization_points", "epochs": 2, "train": "alternate"},
    {"name": "re_estimate_batch_norm"},
]
RECIPE = {
    "name": "killed", "bits": ["W4A8"], "devices": ["host"], "teacher": {"model": "digits_teacher"},
    "student": {"model": "digits_student"}, "passes": PASSES,
    "data": {"name": "digits", "validation": 300, "crop_padding": 1},
}  # fmt: skip


def main() -> None:
    """Be the run that is killed, or the one that kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="only train in this folder and print the hash of the result")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--kills", type=int, default=KILLS, help="in each mode")
    options = parser.parse_args()
    if options.run:
        print(BEGUN, flush=True)
        print(final_hash(options.run, MODES[options.modes[0]]), flush=True)
        return
    rows = []
    for mode in options.modes:
        with TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/compiled"  # as on a machine that never trained before
            rows += benchmark(Path(folder), mode, options.kills)
    rows = kept_rows("kill_resume", rows, ("mode",)) + rows
    path = write_record("kill_resume", rows, all_equal=all(row["equal"] for row in rows))
    print(path, "equal" if all(row["equal"] for row in rows) else "DIFFERENT")


def final_hash(folder: Path, mode: Mapping[str, Any]) -> str:
    """Train to the end and hash the three networks, statistics included, and the history."""
    recipe = parse_recipe({**RECIPE, "train": {"batch_size": 64, **mode}}, __file__)
    state = train(recipe, build_train_passes(recipe.passes), Bits.parse("W4A8"), folder, Silent())
    networks = [network_sha256(n) for n in (state.teacher, state.student, state.student_to_train())]
    history = [point.model_dump() for point in state.history]
    return digest(networks, history)


def benchmark(folder: Path, mode: str, kills: int) -> list[dict[str, Any]]:
    """Run once in peace, then run after run under fire until `kills` have been fired."""
    started = time.perf_counter()
    whole, _ = attempt(folder / "whole", mode, None)
    seconds = time.perf_counter() - started
    if whole is None:
        raise SystemExit("the run that was left alone did not finish")
    chance, rows, left = random.Random(0), [], kills
    while left or not rows:
        target, moments = folder / str(len(rows)), []
        found = None
        while found is None:
            delay = chance.uniform(0, seconds / 6) if left else None
            found, killed = attempt(target, mode, delay)
            left -= killed
            moments += [delay] * killed
        rows.append({
            "mode": mode, "uninterrupted_seconds": seconds, "uninterrupted_sha256": whole, "sha256": found,
            "equal": found == whole, "kills": len(moments), "kills_after_s": moments,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def attempt(folder: Path, mode: str, delay_s: float | None) -> tuple[str | None, int]:
    """Start or resume a run; kill it `delay_s` after its imports. Gives its hash, if it got there, and 1 if killed."""
    command = [sys.executable, "-m", "benchmarks.kill_resume", "--modes", mode, "--run", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdout.readline().strip() != BEGUN:
            raise SystemExit("the run did not begin")
        try:
            rest, _ = process.communicate(timeout=delay_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return None, 1
    if process.returncode != 0:
        raise SystemExit(f"a run in {folder} failed with status {process.returncode}")
    return rest.strip(), 0


if __name__ == "__main__":
    main()
