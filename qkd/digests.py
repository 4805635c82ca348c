"""Hashes of what training depends on: results are kept under them, so none may forget a thing."""

import hashlib
import inspect
import json
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

VERSIONED = ("torch", "qkd")
"""Packages whose versions are hashed with what they make."""


def digest(*parts: Any) -> str:
    """Hash of plain values, nested at will."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def array_sha256(array: np.ndarray[Any, Any]) -> str:
    """Hash of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def network_sha256(network: nn.Module) -> str:
    """Hash of a network's class, structure and values, and of the files that define its own classes."""
    values = [
        (name, list(tensor.shape), str(tensor.dtype), array_sha256(tensor.detach().cpu().numpy()))
        for name, tensor in sorted(network.state_dict().items())
    ]
    return digest(f"{type(network).__module__}.{type(network).__qualname__}", str(network), values, *_sources(network))


def _sources(network: nn.Module) -> Iterable[str]:
    """What a user may edit between two runs."""
    modules = {inspect.getmodule(type(module)) for module in network.modules()}
    return sorted(_source(module) for module in modules if module and module.__name__.split(".")[0] not in VERSIONED)


def _source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # typed in, or not Python
        return ""
