"""Tutoring, QKD's third phase: the quantized student learns under a frozen teacher; also the fixed-teacher control."""

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
class Tutoring:
    """L_S = CE(y, z_S) + w T² KL(p_T ‖ p_S); the teacher is frozen, its statistics too.

    Kim et al. 2019 (arXiv 1911.12491). Verified in re-implementations: the loss, T = 2, 70 of 200 epochs on CIFAR.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    step_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the steps, relative to the weights'."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weight: Annotated[float, Field(ge=0)] = 1.0
    form: Literal["sum", "convex"] = "sum"
    """"sum" as above; "convex" scales the cross-entropy by 1 - weight."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

    name: ClassVar[str] = "tutoring"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = (teacher_is_trained, student_is_quantized)
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = ()
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)

    def __post_init__(self) -> None:
        if self.form == "convex" and self.weight > 1:
            raise RecipeError(f'{self.name}.weight is {self.weight:g}; with form = "convex" it is a share: use 0 to 1')

    def __call__(self, state: TrainState) -> TrainState:
        """Train the quantized student under the frozen teacher."""
        return tutoring(state, self)


@dataclass(frozen=True)
class Distill(Tutoring):
    """Distillation from a fixed teacher as the whole recipe: L_S = (1 − w) CE + w T² KL, the control of QKD.

    Hinton et al. 2015 (arXiv 1503.02531); T and w are to be searched: at low bits T = 5 has cost ten points.
    """

    weight: Annotated[float, Field(ge=0, le=1)] = 0.7
    form: Literal["sum", "convex"] = "convex"

    name: ClassVar[str] = "distill"


def tutoring(state: TrainState, options: Tutoring) -> TrainState:
    """The pass as a function."""
    from torch import Tensor

    from qkd.train.job import Job
    from qkd.train.knowledge.response import ResponseLoss
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    student, teacher = copy.deepcopy(state.student_to_train()), copy.deepcopy(state.teacher)
    response = ResponseLoss(options.temperature, options.weight, options.form)

    def loss(images: Tensor, labels: Tensor, teacher_NK: Tensor) -> Tensor:
        return response(student(images), teacher_NK, labels)

    learner = Learner(student, options.learning_rate, options.step_rate)
    return fit(Job(options.name, options.epochs, {"quantized": learner}, loss, options.warmup, teacher=teacher), state)
