"""Every pass, in order; a recipe's tables become passes here. Loads neither torch nor tvm."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError

from qkd.errors import RecipeError
from qkd.passes.train.apprentice import Apprentice
from qkd.passes.train.co_study import CoStudy
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantization_points import QuantizationPoints
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.quantized_distillation import QuantizedDistillation
from qkd.passes.train.re_estimate_batch_norm import ReEstimateBatchNorm
from qkd.passes.train.self_study import Qat, SelfStudy
from qkd.passes.train.stat_assist import StatAssist
from qkd.passes.train.tutoring import Distill, Tutoring
from qkd.pipeline import Pass
from qkd.recipe import pass_fault
from qkd.train.state import TrainState

TrainPass: TypeAlias = Pass[TrainState]

TRAIN_PASSES = (
    Pretrain,
    Quantize,
    SelfStudy,
    Qat,
    CoStudy,
    Tutoring,
    Distill,
    Apprentice,
    QuantizedDistillation,
    QuantizationPoints,
    StatAssist,
    ReEstimateBatchNorm,
)
"""TrainState → TrainState, in the order in which a recipe usually names them."""


def build_train_passes(tables: Sequence[Mapping[str, Any]]) -> tuple[TrainPass, ...]:
    """Make the passes a recipe names, or raise one RecipeError with the faults of all its tables."""
    built, faults = [], []
    for index, table in enumerate(tables):
        try:
            built.append(_build(table, f"passes[{index}]"))
        except RecipeError as error:
            faults.append(str(error))
    if faults:
        raise RecipeError("\n".join(faults))
    return tuple(built)


def _build(table: Mapping[str, Any], where: str) -> TrainPass:
    known = {kind.name: kind for kind in TRAIN_PASSES}
    name = table.get("name")
    if name not in known:
        raise RecipeError(f"{where}.name is {name!r}; known passes: {', '.join(known)}")
    options = {key: value for key, value in table.items() if key != "name"}
    try:
        # strict pydantic makes a dataclass from a JSON object, but not from a dict
        adapter: TypeAdapter[TrainPass] = TypeAdapter(known[name])
        return adapter.validate_json(json.dumps(options, default=str))
    except ValidationError as error:
        raise pass_fault(error, f"{where} ({name})") from None
    except RecipeError as error:  # what a pass says of options that do not go together
        raise RecipeError(f"{where}: {error}") from None
