"""Which quantizer options pay: ternary thresholds, dampening, 2-bit levels, first steps; plain QAT on digits.

`python -m benchmarks.quantizers` starts every arm of a seed from the same float student and gives it the same updates.
Scores are the integer graph's. Choices use `val`; variants that no recipe can name are defined here and only here.
"""

import argparse
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.record import write_record
from benchmarks.study_arms import DIGITS, as_recipe
from qkd.bits import Bits
from qkd.data.datasets import Split, load_data
from qkd.graph.graph import QuantGraph
from qkd.graph.reference import run_in_batches
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.re_estimate_batch_norm import ReEstimateBatchNorm
from qkd.passes.train.self_study import Qat
from qkd.recipe import ModelSpec, QuantizerSpec
from qkd.student.freeze import freeze
from qkd.student.quantizer import CLIP_FRACTIONS, CodeRange, LearnedStep, initial_weight_step, to_codes
from qkd.student.student import PLAIN_STEPS
from qkd.train.evaluation import top1
from qkd.train.state import TrainState
from qkd.train.training_run import initial_state

EVEN, ODD = CodeRange(-2, 1), CodeRange(-3, 3)
WIDTHS = (4,)
"""Of the student: so narrow that rounding hurts; the library's own has 16."""
KEYS = ("width", "question", "bits", "variant")
Patch = Callable[[], AbstractContextManager[Any]]


class OddStep(LearnedStep):
    """Four levels without a zero where −2..1 was asked for: odd codes, half of whose distance is the step."""

    def __init__(self, codes: CodeRange, shape: tuple[int, ...], elements: int) -> None:
        super().__init__(codes, shape, elements)
        self.codes = ODD if codes == EVEN else codes

    def to_codes(self, x: Tensor) -> Tensor:
        """Odd codes as floats."""
        return odd_codes(x, self.step()) if self.codes == ODD else super().to_codes(x)

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize."""
        return self.to_codes(x) * self.step()


def odd_codes(x: Tensor, step: Tensor) -> Tensor:
    """The nearest of −3, −1, 1, 3 times `step`."""
    return 2 * to_codes(x - step, 2 * step, EVEN) + 1


def first_odd_step(weight: Tensor, codes: CodeRange, per_channel: bool) -> Tensor:
    """The least squares step of each channel."""
    if codes != ODD:
        return initial_weight_step(weight, codes, per_channel)
    rows = weight.detach().reshape(len(weight), -1)
    steps = torch.stack([rows.abs().amax(1, keepdim=True) * fraction / 3 for fraction in CLIP_FRACTIONS])
    errors = (odd_codes(rows, steps) * steps - rows).square().sum(2)
    return steps[:, :, 0].gather(0, errors.argmin(0, keepdim=True)).reshape(-1, 1)


@contextmanager
def odd_levels() -> Iterator[None]:
    """Weights of 2 bits on odd levels."""
    replaced = {"LearnedStep": OddStep, "initial_weight_step": first_odd_step}
    with patch.multiple("qkd.student.weighted_layers", **replaced):
        yield


def largest_step(x: Tensor, codes: CodeRange) -> Tensor:
    """The step that clips nothing."""
    return x.abs().max() / codes.magnitude


def percentile_step(x: Tensor, codes: CodeRange) -> Tensor:
    """The step that clips one value in a thousand."""
    return x.abs().flatten().kthvalue(int(0.999 * x.numel())).values / codes.magnitude


def step_of_twn(weight_OK: Tensor) -> Tensor:
    """Ternary Weight Networks' own approximation: the mean magnitude above 0.7 · E|w| (equations 6 and 7)."""
    magnitude = weight_OK.abs()
    large = magnitude > 0.7 * magnitude.mean(dim=1, keepdim=True)
    return (magnitude * large).sum(dim=1, keepdim=True) / large.sum(dim=1, keepdim=True).clamp(min=1)


def activations_by(rule: Callable[[Tensor, CodeRange], Tensor]) -> Patch:
    """Another first step of activations."""
    return lambda: patch("qkd.student.activation.initial_activation_step", rule)


@dataclass(frozen=True)
class Arm:
    """One variant of one question."""

    question: str
    bits: str
    variant: str
    quantizer: QuantizerSpec = PLAIN_STEPS
    step_rate: float = 0.1
    start: Patch = nullcontext
    """In force while the student is quantized."""


def arms() -> Iterable[Arm]:
    """Every arm; the first of a question is what recipes do today."""
    for rate in (0.1, 1.0):
        for kind in (QuantizerSpec(), QuantizerSpec(ternary_thresholds="asymmetric")):
            yield Arm("ternary thresholds", "ternary-A8", f"{kind.ternary_thresholds}, rate {rate}", kind, rate)
    yield Arm("first ternary step", "ternary-A8", "least squares")
    approximate = lambda: patch("qkd.student.quantizer.ternary_step", step_of_twn)  # noqa: E731
    yield Arm("first ternary step", "ternary-A8", "TWN", start=approximate)
    for bits in ("W4A4", "W2A2"):
        for strength in (0.0, 0.1, 1.0):
            yield Arm(f"dampening, {bits}", bits, str(strength), QuantizerSpec(dampening=strength))
    yield Arm("2-bit levels", "W2A2", "-2, -1, 0, 1")
    yield Arm("2-bit levels", "ternary-A2", "-1, 0, 1")
    yield Arm("2-bit levels", "W2A2", "-3, -1, 1, 3", start=odd_levels)
    yield Arm("first 2-bit activation step", "W2A2", "least squares")
    rules = {"0.999 quantile": percentile_step, "largest": largest_step}
    for name, rule in rules.items():
        yield Arm("first 2-bit activation step", "W2A2", name, start=activations_by(rule))
    for rate in (0.1, 0.01, 1.0):
        yield Arm("rate of steps", "W2A2", str(rate), step_rate=rate)


def float_state(width: int, seed: int) -> TrainState:
    """The trained float student of a seed."""
    recipe = as_recipe(DIGITS, DIGITS.fine_tuned(), "W4A8", seed)
    student = ModelSpec(**DIGITS.student, options={"width": width})
    recipe = recipe.model_copy(update={"student": student})
    state = initial_state(recipe, load_data(recipe.data, Path()), Bits.parse("W4A8"))
    return Pretrain("student", DIGITS.float_epochs, DIGITS.float_rate)(state)


def run_arms(state: TrainState) -> Iterable[dict[str, Any]]:
    """Every arm of a seed; what several questions start from is trained once."""
    known: dict[Hashable, dict[str, Any]] = {}
    for arm in arms():
        training = (arm.bits, arm.quantizer, arm.step_rate, arm.start)
        if training not in known:
            known[training] = run_arm(arm, state)
        yield known[training] | {"question": arm.question, "variant": arm.variant}


def run_arm(arm: Arm, state: TrainState) -> dict[str, Any]:
    """Quantize, train and score one arm."""
    settings = state.settings.model_copy(update={"quantizer": arm.quantizer})
    state = replace(state, bits=Bits.parse(arm.bits), settings=settings)
    with arm.start():
        state = Quantize()(state)
    trained = ReEstimateBatchNorm()(Qat(DIGITS.epochs, DIGITS.rate, arm.step_rate)(state))
    graph = freeze(trained.student_to_train(), "quantizers")
    return {
        "question": arm.question, "bits": arm.bits, "variant": arm.variant,
        "val_start": state.passes[-1].validation_top1,
        "val": score(graph, state.data.validation), "test": score(graph, state.data.test),
    }  # fmt: skip


def score(graph: QuantGraph, split: Split) -> float:
    """Top-1 of the integer graph in percent."""
    return 100.0 * float((run_in_batches(graph, split.codes()).argmax(axis=1) == split.labels).mean())


def float_row(state: TrainState) -> dict[str, Any]:
    """The float student with as many more updates as the quantized ones get."""
    student = Pretrain("student", DIGITS.epochs, DIGITS.rate)(state).student
    data = state.data
    return {
        "question": "float", "bits": "float", "variant": "equal updates",
        "val_start": top1(state.student, data.validation),
        "val": top1(student, data.validation), "test": top1(student, data.test),
    }  # fmt: skip


def over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each arm's means, and its differences from its question's first variant, paired by seed; in the arms' order."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    first: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    return [
        {
            **dict(zip(KEYS, key, strict=True)), "seeds": len(found),
            **{f"{name}_mean": mean(row[name] for row in found) for name in ("val_start", "val", "test")},
            **_differences(found, first.setdefault(key[:2], found)),
        }
        for key, found in groups.items()
    ]  # fmt: skip


def _differences(found: list[dict[str, Any]], first: list[dict[str, Any]]) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for split in ("val", "test"):
        gained = [ours[split] - theirs[split] for ours, theirs in zip(found, first, strict=True)]
        columns[f"{split}_gain"] = mean(gained)
        columns[f"{split}_gain_sd"] = stdev(gained) if len(gained) > 1 else None
    return columns


def main() -> None:
    """Run all arms seed by seed and write the record after each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    rows: list[dict[str, Any]] = []
    torch.set_num_threads(1)
    options = parser.parse_args()
    for width in options.widths:
        for seed in range(options.seeds):
            state = float_state(width, seed)
            found = [float_row(state), *run_arms(state)]
            rows.extend({"width": width, "seed": seed} | row for row in found)
            print(write_record("quantizers", rows, over_seeds=over_seeds(rows)), flush=True)


if __name__ == "__main__":
    main()
