"""Apprentice: a low-precision student beside a float teacher, in three schemes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.pipeline import Invariant
from qkd.train.state import TrainState, student_is_quantized, student_is_trained, teacher_is_trained

if TYPE_CHECKING:
    from qkd.student.student import QuantStudent
    from qkd.train.state import Role


@dataclass(frozen=True)
class Apprentice:
    """L = α H(y, p_T) + β H(y, p_A) + γ H(z_T, p_A), with z_T the teacher's softmax at temperature 1.

    A trains both networks from their first weights; only the α term reaches the teacher. B has a trained, frozen
    teacher and a student from its first weights. C goes on from a quantized trained student at a low rate.

    Mishra and Marr 2017 (arXiv 1711.05852). Verified in a third party's summary: the loss, α = 1, β = γ = 0.5 as the
    best, raw rather than softened logits, C as the best scheme. Not verified: first and last layer float (ours have
    8-bit weights), the learning rates, how few the epochs of C are. Ours: activations are quantized too.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    scheme: Literal["A", "B", "C"]
    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    step_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the steps, relative to the weights'."""
    teacher_learning_rate: Annotated[float, Field(ge=0)] = 0.1
    """Scheme A only."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Scheme A only: the teacher is frozen in the others."""
    beta: Annotated[float, Field(ge=0)] = 0.5
    gamma: Annotated[float, Field(ge=0)] = 0.5
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

    name: ClassVar[str] = "apprentice"

    @property
    def requires(self) -> tuple[Invariant[TrainState], ...]:
        """A starts from nothing, B from a teacher, C from a teacher and a quantized student."""
        needs: dict[str, tuple[Invariant[TrainState], ...]] = {
            "A": (), "B": (teacher_is_trained,), "C": (teacher_is_trained, student_is_quantized)
        }  # fmt: skip
        return needs[self.scheme]

    @property
    def forbids(self) -> tuple[Invariant[TrainState], ...]:
        """Networks that start from first weights must not be trained yet."""
        untrained: dict[str, tuple[Invariant[TrainState], ...]] = {
            "A": (teacher_is_trained, student_is_trained, student_is_quantized),
            "B": (student_is_trained, student_is_quantized),
            "C": (),
        }
        return untrained[self.scheme]

    @property
    def ensures(self) -> tuple[Invariant[TrainState], ...]:
        """Both networks are trained afterwards."""
        return (teacher_is_trained, student_is_quantized)

    def __call__(self, state: TrainState) -> TrainState:
        """Train the student, in scheme A the teacher too."""
        return jointly(state, self) if self.scheme == "A" else under_teacher(state, self)


def jointly(state: TrainState, options: Apprentice) -> TrainState:
    """Scheme A."""
    from torch import Tensor
    from torch.nn.functional import cross_entropy

    from qkd.student.student import fit_first_weights
    from qkd.train.job import Job
    from qkd.train.knowledge.response import full_cross_entropy
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    student, teacher = first_student(state), copy.deepcopy(state.teacher)
    fit_first_weights(teacher, state.data.train.images)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        student_NK, teacher_NK = student(images), teacher(images)
        hard = options.alpha * cross_entropy(teacher_NK, labels) + options.beta * cross_entropy(student_NK, labels)
        return hard + options.gamma * full_cross_entropy(student_NK, teacher_NK.detach())

    learners: dict[Role, Learner] = {
        "quantized": Learner(student, options.learning_rate, options.step_rate),
        "teacher": Learner(teacher, options.teacher_learning_rate),
    }
    return fit(Job(options.name, options.epochs, learners, loss, options.warmup), state)


def under_teacher(state: TrainState, options: Apprentice) -> TrainState:
    """Schemes B and C, which differ in where the student starts."""
    from torch import Tensor
    from torch.nn.functional import cross_entropy

    from qkd.train.job import Job
    from qkd.train.knowledge.response import full_cross_entropy
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    student = first_student(state) if options.scheme == "B" else copy.deepcopy(state.student_to_train())
    teacher = copy.deepcopy(state.teacher)

    def loss(images: Tensor, labels: Tensor, teacher_NK: Tensor) -> Tensor:
        student_NK = student(images)
        hard = options.beta * cross_entropy(student_NK, labels)
        return hard + options.gamma * full_cross_entropy(student_NK, teacher_NK)

    learner = Learner(student, options.learning_rate, options.step_rate)
    job = Job(options.name, options.epochs, {"quantized": learner}, loss, options.warmup, teacher=teacher)
    return fit(job, state)


def first_student(state: TrainState) -> QuantStudent:
    """The quantized student as it is before any training: the float student's first weights, steps fitted to them."""
    from qkd.passes.train.quantize import Quantize, quantize

    return quantize(state, Quantize()).student_to_train()
