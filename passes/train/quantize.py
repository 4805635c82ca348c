"""Turn the trained float student into a quantized one: steps fitted to weights and data, statistics re-estimated."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.pipeline import Invariant
from qkd.train.history import PassFact
from qkd.train.state import TrainState, student_is_quantized, student_is_trained


@dataclass(frozen=True)
class Quantize:
    """Steps by least squares, those of activations on one batch, then batch norm.

    Without the re-estimated statistics the float weights lose tens of points at low bits, and training starts there.
    The recipe's `train.quantizer` says how else weights are rounded.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    calibration_images: Annotated[int, Field(gt=1)] = 512
    norm_batches: Annotated[int, Field(ge=0)] = 40

    name: ClassVar[str] = "quantize"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_trained,)
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)

    def __call__(self, state: TrainState) -> TrainState:
        """Make the quantized student."""
        return quantize(state, self)


def quantize(state: TrainState, options: Quantize) -> TrainState:
    """The pass as a function."""
    from qkd.data.pixels import image_batch
    from qkd.student.student import calibrate, prepare
    from qkd.train.evaluation import top1
    from qkd.train.norm_statistics import re_estimate

    started = time.perf_counter()
    quantized = prepare(state.student, state.bits, state.data.input_shape, state.settings.quantizer)
    images = image_batch(state.data.train.images[: options.calibration_images])
    calibrate(quantized, images)
    if options.norm_batches:
        re_estimate(quantized, state.data.train, options.norm_batches, state.settings.batch_size)
        calibrate(quantized, images)  # the activations moved with the statistics
    reached = top1(quantized, state.data.validation)
    fact = PassFact(name=options.name, epochs=0, seconds=time.perf_counter() - started, validation_top1=reached)
    return state.after(fact, {"quantized": quantized})
