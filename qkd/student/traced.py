"""One operator of a traced float network, and the error for what cannot become one."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.fx
from torch import nn

from qkd.errors import UnsupportedOpError

ALLOWED = (
    "Conv2d (any stride and zero padding; groups 1 or depthwise), Linear, BatchNorm behind them, ReLU behind them or "
    "behind an add, add, mean or average pool over height and width, max pool, zero padding before a convolution, "
    "flatten to (N, K), dropout, identity"
)
INPUT = "input"
"""Name of the network's input among the operators' sources."""

Kind: TypeAlias = Literal["conv", "depthwise", "linear", "add", "average_pool", "max_pool", "flatten"]
Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d
Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[int, int, int, int]
"""(left, right, top, bottom), as torch pads."""


@dataclass(frozen=True)
class TracedOp:
    """One operator of the float network with what was fused into it."""

    kind: Kind
    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    """Of the output, without the batch: (C, H, W) or (K,)."""
    origin: str
    """Where it stands in the module, for messages."""
    module: nn.Conv2d | nn.Linear | None = None
    norm: Norm | None = None
    rectified: bool = False
    """A ReLU follows, or no value can be negative anyway."""
    padding: Padding = (0, 0, 0, 0)
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    flattened: tuple[int, int, int] | None = None
    """(C, H, W) of the image that a (K,) output was: its order differs between torch and the device."""


def unsupported(node: torch.fx.Node, why: str) -> UnsupportedOpError:
    """The error for a node without an integer form."""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return UnsupportedOpError(f"{node.name!r} ({target}) has no integer form: {why}. Allowed are {ALLOWED}.")
