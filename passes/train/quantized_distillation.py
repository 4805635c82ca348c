"""Quantized distillation: gradients at weights rounded in buckets, applied to the float weights behind them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.pipeline import Invariant
from qkd.train.state import TrainState, student_is_quantized, teacher_is_trained

if TYPE_CHECKING:
    from qkd.student.levels import LevelSpec
    from qkd.student.student import QuantStudent

NORM_BATCHES = 40
"""Batches for the statistics of freshly rounded weights: without them tens of points are lost."""


@dataclass(frozen=True)
class QuantizedDistillation:
    """L = (1 − w) CE(y, z_S) + w T² KL(p_T ‖ p_S) at the rounded weights; the optimiser moves the float ones.

    Algorithm 1 of Polino, Pascanu, Alistarh 2018 (arXiv 1802.05668). Verified in the authors' code: bucketed linear
    scaling, T = 2, w = 0.7, straight gradients, nearest rounding in all experiments, buckets of 256. The code's KL
    is averaged over classes too, which makes its weight w / K (`averaging = "elements"`). Ours: the first and last
    layer have 8-bit learned steps and activations are quantized; one-cycle rate; a bucket is an output channel, so that
    the device can keep indices. Buckets of k weights cross channels and are kept as int8. Of 8 bits 127 levels are
    used, the largest table of a device, not 256.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    step_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the activations' steps, relative to the weights'."""
    bucket: Annotated[int, Field(gt=0)] | Literal["tensor", "channel"] = "channel"
    rounding: Literal["nearest", "stochastic"] = "nearest"
    gradient: Literal["straight", "truncated", "exact"] = "straight"
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weight: Annotated[float, Field(ge=0, le=1)] = 0.7
    averaging: Literal["batch", "elements"] = "batch"
    """Of the KL: over samples, or over samples and classes."""
    store: Literal["indices", "int8"] = "indices"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

    name: ClassVar[str] = "quantized_distillation"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = (teacher_is_trained, student_is_quantized)
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = ()
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)

    def __call__(self, state: TrainState) -> TrainState:
        """Put the weights on even levels and train them there."""
        return quantized_distillation(state, self)


def quantized_distillation(state: TrainState, options: QuantizedDistillation) -> TrainState:
    """The pass as a function."""
    from torch import Tensor

    from qkd.student.levels import LevelSpec
    from qkd.train.job import Job
    from qkd.train.knowledge.response import ResponseLoss
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    inner = len(state.student_to_train().inner())
    spec = LevelSpec(
        (level_count(state.bits.weight),) * inner,
        bucket=options.bucket, rounding=options.rounding, gradient=options.gradient, store=options.store,
    )  # fmt: skip
    student = on_levels(state, spec)
    response = ResponseLoss(options.temperature, options.weight, "convex", options.averaging)

    def loss(images: Tensor, labels: Tensor, teacher_NK: Tensor) -> Tensor:
        return response(student(images), teacher_NK, labels)

    learner, teacher = Learner(student, options.learning_rate, options.step_rate), copy.deepcopy(state.teacher)
    job = Job(options.name, options.epochs, {"quantized": learner}, loss, options.warmup, teacher=teacher)
    return with_note(fit(job, state))


def level_count(bits: int | Literal["ternary"]) -> int:
    """Levels of a weight format, at most as many as a table of the device holds."""
    from qkd.student.levels import LARGEST_TABLE

    return 3 if bits == "ternary" else min(1 << bits, LARGEST_TABLE)


def on_levels(state: TrainState, spec: LevelSpec) -> QuantStudent:
    """A copy of the student with its inner weights on levels, and the statistics that belong to them."""
    from qkd.train.norm_statistics import re_estimate

    student = copy.deepcopy(state.student_to_train())
    student.use_levels(spec)
    re_estimate(student, state.data.train, NORM_BATCHES, state.settings.batch_size)
    return student


def with_note(state: TrainState) -> TrainState:
    """Add to the last pass what snapping its levels to int8 costs, and the size as the paper counts it."""
    from qkd.student.paper_size import paper_bytes
    from qkd.train.evaluation import top1

    student = copy.deepcopy(state.student_to_train())
    before = top1(student, state.data.validation)
    student.snap_levels()
    after = top1(student, state.data.validation)
    note = (
        f"levels snapped to int8: validation {before:.2f} → {after:.2f} %; "
        f"size as the paper counts it: {paper_bytes(student):,} bytes"
    )
    state.session.reporter.say(f"{state.passes[-1].name}: {note}")
    return replace(state, passes=(*state.passes[:-1], state.passes[-1].model_copy(update={"note": note})))
