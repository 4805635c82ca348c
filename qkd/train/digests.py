"""Hashes of what training depends on: results are kept under them, so none may forget a thing."""

import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
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
    """Hash of a network's class, structure, values and plain attributes, and of the files that define its classes."""
    values = [
        (name, list(tensor.shape), str(tensor.dtype), array_sha256(tensor.detach().cpu().numpy()))
        for name, tensor in sorted(network.state_dict().items())
    ]
    attributes = [(name, _plain(module)) for name, module in network.named_modules()]
    return digest(
        f"{type(network).__module__}.{type(network).__qualname__}", str(network), values, attributes, *_sources(network)
    )


def _plain(module: nn.Module) -> dict[str, str]:
    """What `forward` may read besides tensors; the mode a module is in is left out."""
    found = {}
    for name, value in vars(module).items():
        if name[0] != "_" and name != "training":
            with suppress(TypeError, ValueError):  # no plain value: a tensor, an object
                found[name] = json.dumps(value, sort_keys=True)
    return found


def _sources(network: nn.Module) -> Iterable[str]:
    """What a user may edit between two runs: the files of all classes, and what the user's own ones import."""
    found: dict[str, str] = {}
    left = {cls.__module__ for module in network.modules() for cls in type(module).__mro__}
    while left:
        name = left.pop()
        module = sys.modules.get(name)
        if module is None or name in found or name.split(".")[0] in VERSIONED:
            continue
        found[name] = _source(module)
        if not _is_installed(module):
            values = list(vars(module).values())
            left |= {v.__name__ if isinstance(v, ModuleType) else str(getattr(v, "__module__", "")) for v in values}
    return sorted(found.values())


def _is_installed(module: ModuleType) -> bool:
    """Whether a module lies where packages and Python itself do, or has no file."""
    file = getattr(module, "__file__", None)
    return file is None or any(
        Path(file).is_relative_to(sysconfig.get_path(p)) for p in ("stdlib", "purelib", "platlib")
    )


def _source(module: ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):  # typed in, or not Python
        return ""
