"""Co-study, QKD's second phase: teacher and quantized student learn from the labels and from each other."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.errors import RecipeError
from qkd.pipeline import Invariant
from qkd.train.state import TrainState, student_is_quantized, teacher_is_trained


@dataclass(frozen=True)
class CoStudy:
    """Both networks train, each with the other's detached response as a target.

        L_S = CE(y, z_S) + w T² KL(p_T ‖ p_S)        L_T = CE(y, z_T) + w_T T² KL(p_S ‖ p_T)

    Kim et al. 2019 (arXiv 1911.12491). Verified in three re-implementations: both directions, detached targets, the
    teacher's cross-entropy (without it teachers collapse), T = 2, 100 of 200 epochs on CIFAR. Not verified: the
    optimiser of the teacher. Ours: the teacher that validated best is kept, because a short co-study pulls it down
    (measured: 87.0 → 84.3 in 4 epochs on CIFAR-10), and one that falls further ends the pass, for it would teach what
    it has forgotten.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    step_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the steps, relative to the weights'."""
    teacher_learning_rate: Annotated[float, Field(ge=0)] = 0.002
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weight: Annotated[float, Field(ge=0)] = 1.0
    teacher_weight: Annotated[float, Field(ge=0)] = 1.0
    form: Literal["sum", "convex"] = "sum"
    """"sum" as above; "convex" scales the cross-entropy by 1 - weight."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    keep_best_teacher: bool = True
    largest_teacher_fall: Annotated[float, Field(gt=0)] = 5.0
    """Points below its best validation at which the pass ends; only with `keep_best_teacher`."""
    teacher_statistics: Literal["batch", "running"] = "batch"
    """"running" lets the teacher normalise by the statistics it came with, as in tutoring."""

    name: ClassVar[str] = "co_study"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = (teacher_is_trained, student_is_quantized)
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = ()
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (teacher_is_trained, student_is_quantized)

    def __post_init__(self) -> None:
        for option, weight in (("weight", self.weight), ("teacher_weight", self.teacher_weight)):
            if self.form == "convex" and weight >= 1:
                raise RecipeError(
                    f'co_study.{option} is {weight:g}; with form = "convex" labels get the rest of 1: use less than 1'
                )

    def __call__(self, state: TrainState) -> TrainState:
        """Train teacher and quantized student together."""
        return co_study(state, self)


def co_study(state: TrainState, options: CoStudy) -> TrainState:
    """The pass as a function."""
    from torch import Tensor

    from qkd.train.job import Job
    from qkd.train.knowledge.response import ResponseLoss
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    student, teacher = copy.deepcopy(state.student_to_train()), copy.deepcopy(state.teacher)
    student_loss = ResponseLoss(options.temperature, options.weight, options.form)
    teacher_loss = ResponseLoss(options.temperature, options.teacher_weight, options.form)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        student_NK, teacher_NK = student(images), teacher(images)
        return student_loss(student_NK, teacher_NK, labels) + teacher_loss(teacher_NK, student_NK, labels)

    job = Job(
        options.name,
        options.epochs,
        {
            "quantized": Learner(student, options.learning_rate, options.step_rate),
            "teacher": Learner(
                teacher, options.teacher_learning_rate, batch_statistics=options.teacher_statistics == "batch"
            ),
        },
        loss,
        options.warmup,
        keep_best=("teacher",) if options.keep_best_teacher else (),
        largest_fall=options.largest_teacher_fall,
    )
    return fit(job, state)
