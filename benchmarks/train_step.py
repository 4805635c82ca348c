"""What a quantized training step costs against the float step of the same network in the same run.

`python -m benchmarks.train_step` times forward, backward and SGD step of ResNet-8, batch 128, one thread, for float,
our student, Brevitas and torch.ao, eager and compiled, in float32 and under bfloat16 autocast. Each variant has a
process of its own, for compiled ones slow each other down in one; they take turns, so what other jobs do slows all.
Times are a process's own CPU time: on one thread and an idle machine that is wall time. `ratio` is the median over
rounds of a variant's step time by the float one's of the same kind and round; `all_ms` holds every step. Rows that a
run does not measure again are kept.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.record import kept_rows, write_record
from benchmarks.step_variants import BATCH, CLASSES, VARIANTS
from qkd.train.compiling import FUSION
from qkd.train.training_run import keep_freed_memory

TARGETS = {False: 1.6, True: 1.25}
"""Largest ratio that we allow ourselves, by compiled."""
WARM_UP = 5
"""Steps before the first timed one; Brevitas' own statistics phase is cut to the first of them, see `by_brevitas`."""
Step = Callable[[], float]


@dataclass(frozen=True)
class Kind:
    """What all variants of one comparison share."""

    compiled: bool
    precision: str

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'}-{self.precision}"

    def columns(self) -> dict[str, Any]:
        """What every row of this kind says."""
        target = TARGETS[self.compiled] if self.precision == "float32" else None
        return {"net": "resnet8", "compiled": self.compiled, "precision": self.precision, "target": target}


KINDS = {str(kind): kind for kind in (Kind(c, p) for p in ("float32", "bfloat16") for c in (False, True))}


def main() -> None:
    """Time variants and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="compiling takes minutes")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="float is always timed")
    options = parser.parse_args()
    rows = []
    for kind in (KINDS[name] for name in options.kinds):
        rows += timed([name for name in VARIANTS if name in ("float", *options.variants)], kind, options.rounds)
        kept = kept_rows("train_step", rows, ("compiled", "precision", "quantizer"))
        print(write_record(
            "train_step", kept + rows, batch=BATCH, threads=1, bits="W4A8", clock="process CPU time",
        ), flush=True)  # fmt: skip


def timed(names: list[str], kind: Kind, rounds: int) -> list[dict[str, Any]]:
    """Rows of the named variants of one kind; one that does not run has a reason instead of times."""
    reasons, running = {}, {}
    with ExitStack() as stack:
        for name in names:
            own = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            try:
                own.submit(warm_up, name, kind).result()
                running[name] = own
            except Exception as error:  # another library's failure is a result here
                if name in ("float", "ours"):
                    raise
                reasons[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, own in running.items():
                seconds[name].append(own.submit(seconds_of, name, kind).result())
    return _rows(kind, seconds, reasons)


def warm_up(name: str, kind: Kind) -> None:
    """Build a variant in this process and run its first steps, which compile."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    keep_freed_memory()
    for _ in range(WARM_UP):
        seconds_of(name, kind)


def seconds_of(name: str, kind: Kind) -> float:
    """CPU seconds of one more step of a variant."""
    return step_of(name, kind)()


def _rows(kind: Kind, seconds: dict[str, list[float]], reasons: dict[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            **kind.columns(),
            "quantizer": name,
            "ratio": median(own / base for own, base in zip(found, seconds["float"], strict=True)),
            "step_ms": 1e3 * median(found),
            "all_ms": [round(1e3 * value, 1) for value in found],
        }
        for name, found in seconds.items()
    ]
    rows += [
        {**kind.columns(), "quantizer": n, "ratio": None, "step_ms": None, "reason": r} for n, r in reasons.items()
    ]
    for row in rows:
        print(row, flush=True)
    return rows


@cache
def step_of(name: str, kind: Kind) -> Step:
    """The training step of a variant on one batch; it gives its own CPU seconds."""
    network = VARIANTS[name]().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (BATCH,))
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(network(x), y)

    chosen = torch.compile(loss, dynamic=False, options=dict(FUSION)) if kind.compiled else loss

    def step() -> float:
        started = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if kind.precision == "bfloat16" else nullcontext():
            value = chosen(images, labels)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return time.process_time() - started

    return step


if __name__ == "__main__":
    main()
