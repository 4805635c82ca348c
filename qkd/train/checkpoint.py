"""Training on disk: the state inside a pass after each epoch, and the result of each finished pass.

A file is written whole or not at all, so a run that is killed at any moment goes on from the last one. Only tensors and
plain values are stored behind their SHA-256, and only those are ever read back.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from qkd import __version__
from qkd.base.files import write_atomic
from qkd.errors import RecipeError
from qkd.student.levels import LevelSpec
from qkd.student.student import prepare
from qkd.train.history import HistoryPoint, PassFact
from qkd.train.state import Role, TrainState

CHECKPOINT = "checkpoint.pt"
RESULT = "result.pt"
DIGEST_BYTES = 32
OF_ANOTHER_RECIPE = "delete it or go back to the recipe that made it"
ROLES: tuple[Role, ...] = ("teacher", "student", "quantized")


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write nested dicts of tensors and plain values; ToolError when the disk is full, the previous file survives."""
    buffer = io.BytesIO()
    torch.save({**content, "version": __version__}, buffer)
    kept = buffer.getvalue()
    write_atomic(path, sha256(kept).digest() + kept)


def read_tensors(path: Path) -> dict[str, Any] | None:
    """What `write_tensors` wrote; None where there is no file."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    known, kept = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
    if sha256(kept).digest() != known:  # torch.load itself would read most flipped bits as other weights
        raise RecipeError(f"{path} is damaged or not a checkpoint of this qkd; delete its folder and go on")
    content: dict[str, Any] = torch.load(io.BytesIO(kept), weights_only=True, map_location="cpu")
    if content.pop("version", __version__) != __version__:
        raise RecipeError(f"{path} was written by another version of qkd than this {__version__}; delete its folder")
    return content


def save_result(state: TrainState, folder: Path) -> None:
    """Keep what a finished pass returned; its checkpoint is no longer needed."""
    networks = {role: getattr(state, role) for role in ROLES}
    content: dict[str, Any] = {role: network.state_dict() for role, network in networks.items() if network}
    levels = state.quantized.levels if state.quantized else None
    content["levels"] = None if levels is None else asdict(levels)
    content["trained"] = sorted(state.trained)
    content["history"] = [point.model_dump() for point in state.history]
    content["passes"] = [fact.model_dump() for fact in state.passes]
    write_tensors(folder / RESULT, content)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def load_result(state: TrainState, folder: Path) -> TrainState | None:
    """`state` with the networks and history of a finished pass; None where it has not finished."""
    content = read_tensors(folder / RESULT)
    if content is None:
        return None
    quantized = None
    if "quantized" in content:
        quantized = prepare(state.student, state.bits, state.data.input_shape, state.settings.quantizer)
    if quantized is not None and content.get("levels"):
        quantized.use_levels(LevelSpec(**content["levels"]))
    networks = {"teacher": state.teacher, "student": state.student, "quantized": quantized}
    for role, network in networks.items():
        if network is not None:
            load_weights(network, content[role], f"{folder / RESULT} ({role})", OF_ANOTHER_RECIPE)
    return replace(
        state,
        quantized=quantized,
        trained=frozenset(content["trained"]),
        history=tuple(HistoryPoint(**point) for point in content["history"]),
        passes=tuple(PassFact(**fact) for fact in content["passes"]),
    )


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str, advice: str) -> None:
    """Load weights into a network, or raise RecipeError naming the first tensor that does not fit, with advice."""
    own = network.state_dict()
    for name in [*own, *weights]:
        here, there = (tuple(t[name].shape) if name in t else None for t in (own, weights))
        if here != there:
            found, wanted = ("absent" if shape is None else str(shape or "a scalar") for shape in (there, here))
            raise RecipeError(
                f"{source} is of another architecture: {name} is {found} there and {wanted} in the recipe's network; "
                f"{advice}"
            )
    network.load_state_dict(weights)
