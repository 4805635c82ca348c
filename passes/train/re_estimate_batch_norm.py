"""Re-estimate the quantized student's batch norm after the last step: the statistics that are frozen into integers."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from qkd.base.records import STRICT
from qkd.pipeline import Invariant
from qkd.train.history import PassFact
from qkd.train.state import TrainState, student_is_quantized


@dataclass(frozen=True)
class ReEstimateBatchNorm:
    """Running averages trail behind weights and steps; a plain mean over some batches does not."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    batches: Annotated[int, Field(gt=0)] = 40

    name: ClassVar[str] = "re_estimate_batch_norm"
    requires: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)
    forbids: ClassVar[tuple[Invariant[TrainState], ...]] = ()
    ensures: ClassVar[tuple[Invariant[TrainState], ...]] = (student_is_quantized,)

    def __call__(self, state: TrainState) -> TrainState:
        """Give the quantized student the statistics of its final weights."""
        return re_estimate_batch_norm(state, self)


def re_estimate_batch_norm(state: TrainState, options: ReEstimateBatchNorm) -> TrainState:
    """The pass as a function."""
    from qkd.train.evaluation import top1
    from qkd.train.norm_statistics import re_estimate

    started = time.perf_counter()
    student = copy.deepcopy(state.student_to_train())
    re_estimate(student, state.data.train, options.batches, state.settings.batch_size)
    reached = top1(student, state.data.validation)
    fact = PassFact(name=options.name, epochs=0, seconds=time.perf_counter() - started, validation_top1=reached)
    return state.after(fact, {"quantized": student})
