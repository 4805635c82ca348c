"""What running a library on a device gave; runners make it, verification and profiling read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Codes: TypeAlias = NDArray[np.int8] | NDArray[np.int32]


@dataclass(frozen=True)
class Board:
    """A board that ran a library, as far as it tells what it is."""

    description: str
    emulated: bool | None
    """None: nothing proves it either way."""
    why: str
    """What `emulated` was concluded from."""


@dataclass(frozen=True, eq=False)
class DeviceRun:
    """Outputs of N inputs, and what was asked for besides; what was not asked for or cannot be measured is None."""

    outputs: Codes
    """(N, K) int8 or int32, as the model wrote them."""
    layers: Mapping[str, Codes] | None = None
    """Traced: each operator's output by value name, (N, *shape without its leading 1); reshapes have none."""
    instructions: int | None = None
    """Executed instructions of one inference, without a hook."""
    layer_instructions: Mapping[str, int] | None = None
    """The same by operator name; what the model does between layers is in none of them."""
    latency_us: float | None = None
    """Time of one inference: the median of many on a board that is known not to be emulated."""
    layer_latency_us: Mapping[str, float] | None = None
    """The same by operator name."""
    board: Board | None = None
    """None where no board was asked."""
    stack_bytes: int | None = None
    """Deepest stack of one inference, measured below the caller's frame."""
    executed: Mapping[str, Mapping[int, int]] | None = None
    """By operator name: how often the instruction at each address of `image` was executed in one inference."""
    image: bytes | None = None
    """The ELF program that was counted."""
    tool_versions: Mapping[str, str] = field(default_factory=dict)
