"""Train a float network on the labels: the teacher, or the student that quantization starts from."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.pipeline import Invariant
from qkd.train.state import TrainState, student_is_quantized, student_is_trained, teacher_is_trained


@dataclass(frozen=True)
class Pretrain:
    """Cross-entropy from random weights, with a one-cycle learning rate.

    A quantized student is best trained from a trained float one: ternary from scratch diverged
    (measured on CIFAR-10, ResNet-8).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    network: Literal["teacher", "student"]
    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 0.2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.2

    name: ClassVar[str] = "pretrain"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = ()

    @property
    def forbids(self) -> tuple[Invariant[TrainState], ...]:
        """A quantized student would not see what its float one learns afterwards."""
        return (student_is_quantized,) if self.network == "student" else ()

    @property
    def ensures(self) -> tuple[Invariant[TrainState], ...]:
        """The network that it trains is trained."""
        return (teacher_is_trained if self.network == "teacher" else student_is_trained,)

    def __call__(self, state: TrainState) -> TrainState:
        """Train the teacher or the float student."""
        return pretrain(state, self)


def pretrain(state: TrainState, options: Pretrain) -> TrainState:
    """The pass as a function."""
    from torch import Tensor
    from torch.nn.functional import cross_entropy

    from qkd.student.student import fit_first_weights
    from qkd.train.job import Job
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    network = copy.deepcopy(state.teacher if options.network == "teacher" else state.student)
    if options.network not in state.trained:
        fit_first_weights(network, state.data.train.images)

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(network(images), labels, label_smoothing=options.label_smoothing)

    learner = Learner(network, options.learning_rate)
    title = f"{options.name} {options.network}"  # a recipe has two of them
    return fit(Job(title, options.epochs, {options.network: learner}, loss, options.warmup), state)
