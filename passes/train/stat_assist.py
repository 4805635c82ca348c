"""StatAssist and GradBoost: quantization-aware training from scratch, warmed up in float by the same optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.errors import RecipeError
from qkd.pipeline import Invariant
from qkd.train.state import TrainState, student_is_quantized, student_is_trained

if TYPE_CHECKING:
    from qkd.student.student import QuantStudent

CALIBRATION_IMAGES = 512


@dataclass(frozen=True)
class StatAssist:
    """CE(y, z_S) from first weights: some epochs in float, then quantized, with one optimiser object for both.

    The optimiser's moments, gathered in float, steady the first quantized steps; GradBoost then adds noise along each
    gradient. Park et al. 2020 (arXiv 2006.09679). Verified in the authors' code: the shared optimiser, no pretrained
    network, and GradBoost's constants (see `qkd.train.gradient_boost`). Not verified: the number of float epochs. Ours:
    steps are fitted when quantization begins; the one-cycle rate runs over both parts.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    epochs: Annotated[int, Field(gt=0)]
    """Float and quantized together."""
    float_epochs: Annotated[int, Field(ge=0)]
    optimiser: Literal["sgd", "rmsprop", "adam", "adamw"] = "sgd"
    grad_boost: bool = True
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    step_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate of the steps, relative to the weights'."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1

    name: ClassVar[str] = "stat_assist"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = ()
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_trained, student_is_quantized)
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)

    def __post_init__(self) -> None:
        if self.float_epochs >= self.epochs:
            raise RecipeError(
                f"stat_assist.float_epochs is {self.float_epochs} of {self.epochs} epochs; leave some quantized"
            )

    def __call__(self, state: TrainState) -> TrainState:
        """Train the student from its first weights to a quantized one."""
        return stat_assist(state, self)


def stat_assist(state: TrainState, options: StatAssist) -> TrainState:
    """The pass as a function."""
    from torch import Tensor
    from torch.nn.functional import cross_entropy

    from qkd.student.student import prepare
    from qkd.train.gradient_boost import GradBoost
    from qkd.train.job import Job
    from qkd.train.optimisation import Learner
    from qkd.train.training import fit

    student = prepare(state.student, state.bits, state.data.input_shape, state.settings.quantizer)
    boost = GradBoost(student.parameters()) if options.grad_boost else None

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(student(images), labels)

    def before_epoch(epoch: int) -> None:
        if epoch == options.float_epochs:
            start_quantizing(student, state)
        student.mode = "real" if epoch < options.float_epochs else "fake"
        if boost is not None:
            boost.active = epoch >= options.float_epochs

    job = Job(
        options.name, options.epochs, {"quantized": Learner(student, options.learning_rate, options.step_rate)}, loss,
        options.warmup, optimiser=options.optimiser, before_epoch=before_epoch, gradients=boost,
    )  # fmt: skip
    reached = fit(job, state)
    student.mode = "fake"
    return reached


def start_quantizing(student: QuantStudent, state: TrainState) -> None:
    """Fit all steps to the weights and activations that the float epochs have reached."""
    from qkd.data.pixels import image_batch
    from qkd.student.student import calibrate

    for layer in student.weighted():
        layer.start_weight_step()
    calibrate(student, image_batch(state.data.train.images[:CALIBRATION_IMAGES]))
