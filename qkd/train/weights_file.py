"""Trained weights of float networks as files: what a user brings with a recipe, and what a run leaves for the next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from qkd.base.files import write_atomic
from qkd.errors import RecipeError
from qkd.student.finite import not_finite
from qkd.train.checkpoint import load_weights


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's parameters and statistics as safetensors, whole or not at all."""
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, save(weights))


def use_weights(network: nn.Module, path: Path) -> None:
    """Load trained weights into a network.

    Parameters
    ----------
    network : nn.Module
        Float, as its builder made it.
    path : Path
        A `.safetensors` file, or what `torch.save` made of a state dict, which may lie under "state_dict".

    Raises
    ------
    RecipeError
        Where the file is missing or unreadable, is of another architecture (naming the first tensor that does not
        fit), or holds NaN or infinity.
    """
    weights = _read(path)
    load_weights(network, weights, str(path), "use the model and options that it was trained with, or another file")
    broken = not_finite(weights)
    if broken:
        raise RecipeError(f"{broken} in {path} holds NaN or infinity; train that network again")


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        tensors = path.suffix == ".safetensors"
        content: Any = load_file(path) if tensors else torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise RecipeError(f"no weights at {path}; leave `weights` out to train that network") from None
    except Exception as error:  # torch.load meets foreign bytes with whatever its unpickler trips over
        raise RecipeError(
            f"{path} holds no weights ({type(error).__name__}: {error}); use a .safetensors file or "
            "torch.save(model.state_dict(), path)"
        ) from None
    found = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise RecipeError(f"{path} holds {type(content).__name__}, not the tensors of a state dict by name")
    return found
