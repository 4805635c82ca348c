"""Differentiable quantization: the points that weights are rounded to are learned, without the weights or with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.errors import RecipeError
from qkd.passes.train.quantized_distillation import NORM_BATCHES, level_count, with_note
from qkd.pipeline import Invariant
from qkd.train.state import TrainState, student_is_quantized, student_is_trained, teacher_is_trained

if TYPE_CHECKING:
    from torch import Tensor

    from qkd.student.levels import LevelSpec
    from qkd.student.student import QuantStudent

GRADIENT_BATCHES = 5
"""As in the paper's code."""


@dataclass(frozen=True)
class QuantizationPoints:
    """The loss of quantized distillation, by the points p that weights are rounded to.

    Algorithm 2 of Polino, Pascanu, Alistarh 2018 (arXiv 1802.05668). Verified in the authors' code: points in the
    scaled domain, a point's gradient, sorting after each step, quantile start, half of the points shared out by the
    gradient's norm over 5 batches, 10 to 20 epochs, the float student itself as teacher. Ours: Lloyd's start and
    points for each channel, both better at 2 bits (79.6 against 16.2 untrained, CIFAR-10, ResNet-8); points are
    shared out by the distillation loss's gradient at the rounded weights; weights may learn too; the rate, which in the
    paper is 1e-6 to 1e-4 under another scaling of the loss. Of 8 bits 127 levels are
    used, the largest table of a device, not 256.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Annotated[int, Field(gt=0)]
    train: Literal["points", "joint", "alternate"] = "joint"
    """"points" freezes all else; "alternate" trains weights and points in turns of an epoch and ends on weights."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    step_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    point_rate: Annotated[float, Field(gt=0)] = 0.05
    """Learning rate of the points, relative to the weights'."""
    bucket: Annotated[int, Field(gt=0)] | Literal["tensor", "channel"] = "channel"
    points_for: Literal["tensor", "bucket"] = "bucket"
    initial: Literal["uniform", "quantiles", "lloyd"] = "lloyd"
    allocate: bool = False
    """Whether points are shared out by the norm of each tensor's gradient."""
    teacher: Literal["teacher", "student"] = "teacher"
    """"student" is the float student, as in the paper."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weight: Annotated[float, Field(ge=0, le=1)] = 0.7
    averaging: Literal["batch", "elements"] = "batch"
    store: Literal["indices", "int8"] = "indices"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

    name: ClassVar[str] = "quantization_points"
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = ()
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)

    @property
    def requires(self) -> tuple[Invariant[TrainState], ...]:
        """A quantized student, and the network that teaches it."""
        return (student_is_trained if self.teacher == "student" else teacher_is_trained, student_is_quantized)

    def __call__(self, state: TrainState) -> TrainState:
        """Put the weights on learned points."""
        return quantization_points(state, self)


def quantization_points(state: TrainState, options: QuantizationPoints) -> TrainState:
    """The pass as a function."""

    from qkd.train.job import Job
    from qkd.train.knowledge.response import ResponseLoss
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    teacher = copy.deepcopy(state.teacher if options.teacher == "teacher" else state.student).eval()
    response = ResponseLoss(options.temperature, options.weight, "convex", options.averaging)
    student = on_points(state, options, lambda own, images, labels: response(own(images), teacher(images), labels))

    def loss(images: Tensor, labels: Tensor, teacher_NK: Tensor) -> Tensor:
        return response(student(images), teacher_NK, labels)

    job = Job(
        options.name, options.epochs,
        {"quantized": Learner(student, options.learning_rate, options.step_rate, options.point_rate)},
        loss, options.warmup, teacher=teacher,
        before_epoch=lambda epoch: choose_trained(student, options, epoch),
    )  # fmt: skip
    reached = fit(job, state)
    student.requires_grad_(True)
    return with_note(reached)


def on_points(
    state: TrainState, options: QuantizationPoints, loss: Callable[[QuantStudent, Tensor, Tensor], Tensor]
) -> QuantStudent:
    """A copy of the student with its inner weights on points in their first places."""
    from qkd.student.levels import LevelSpec

    inner = state.student_to_train().inner()
    if not inner:
        raise RecipeError(
            "the student has no layer between its first and its last, whose weights keep 8 bits: there is nothing to "
            "put on points; leave quantization_points out or take a deeper student"
        )
    counts = (level_count(state.bits.weight),) * len(inner)
    spec = LevelSpec(counts, options.bucket, True, options.points_for, store=options.store)
    student = started(state, spec, options)
    if not options.allocate:
        return student
    return started(state, replace(spec, counts=allocated(state, student, loss)), options)


def started(state: TrainState, spec: LevelSpec, options: QuantizationPoints) -> QuantStudent:
    """A copy of the student whose points follow the distribution of its weights, with the statistics they lead to."""
    from qkd.train.norm_statistics import re_estimate

    student = copy.deepcopy(state.student_to_train())
    student.use_levels(spec)
    for layer, levels in student.on_levels():
        levels.start_from(layer.weight, options.initial)
    re_estimate(student, state.data.train, NORM_BATCHES, state.settings.batch_size)
    return student


def allocated(
    state: TrainState, student: QuantStudent, loss: Callable[[QuantStudent, Tensor, Tensor], Tensor]
) -> tuple[int, ...]:
    """Points for each layer by the norm of its weights' mean gradient over 5 batches."""
    import torch

    from qkd.data.pixels import image_batch
    from qkd.student.levels import allocate_points

    train, size = state.data.train, state.settings.batch_size
    student.eval()  # statistics stay as they are
    for start in range(0, GRADIENT_BATCHES * size, size):
        images, labels = train.images[start : start + size], train.labels[start : start + size]
        if len(labels):
            loss(student, image_batch(images), torch.from_numpy(labels)).backward()  # type: ignore[no-untyped-call]
    norms = [0.0 if g is None else float(g.norm()) for g in (layer.weight.grad for layer in student.inner())]
    return allocate_points((len(levels.points[0]) for _, levels in student.on_levels()), norms)


def choose_trained(student: QuantStudent, options: QuantizationPoints, epoch: int) -> None:
    """Let gradients reach what this epoch trains."""
    points = {id(levels.points) for _, levels in student.on_levels()}
    weights_turn = (options.epochs - 1 - epoch) % 2 == 0
    for parameter in student.parameters():
        is_point = id(parameter) in points
        alternately = is_point != weights_turn
        parameter.requires_grad_({"points": is_point, "joint": True, "alternate": alternately}[options.train])
