"""Self-study, QKD's first phase: the quantized student learns from the labels alone; also the plain QAT control."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.pipeline import Invariant
from qkd.train.state import TrainState, student_is_quantized


@dataclass(frozen=True)
class SelfStudy:
    """L = CE(y, z_S) over weights and steps; the teacher is unused.

    Kim et al. 2019 (arXiv 1911.12491). Verified: the loss, the start from a float checkpoint, 30 of 200 epochs and a
    learning rate of 0.01 on CIFAR (from an independent script). Ours: one-cycle rate, steps at a fraction of the
    weights' rate. Not verified: the paper's interval parametrisation; we learn steps as LSQ does.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    step_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the steps, relative to the weights'."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

    name: ClassVar[str] = "self_study"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = ()
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)

    def __call__(self, state: TrainState) -> TrainState:
        """Train the quantized student on the labels."""
        return self_study(state, self)


@dataclass(frozen=True)
class Qat(SelfStudy):
    """Plain quantization-aware training: self-study as the whole recipe, the control of every distillation pass."""

    name: ClassVar[str] = "qat"


def self_study(state: TrainState, options: SelfStudy) -> TrainState:
    """The pass as a function."""
    from torch import Tensor
    from torch.nn.functional import cross_entropy

    from qkd.train.job import Job
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    student = copy.deepcopy(state.student_to_train())

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(student(images), labels)

    learner = Learner(student, options.learning_rate, options.step_rate)
    return fit(Job(options.name, options.epochs, {"quantized": learner}, loss, options.warmup), state)
