"""What a pass asks of the training loop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from qkd.train.optimisation import Learner, OptimiserName
from qkd.train.state import Role

Loss: TypeAlias = Callable[..., Tensor]
"""(images, labels) → scalar; with a `teacher` in the job (images, labels, its logits) → scalar."""


class GradientRule(Protocol):
    """Changes gradients between the backward pass and the optimiser's step; what it remembers is checkpointed."""

    def __call__(self, generator: torch.Generator) -> None:
        """Change the gradients of the parameters it was made for."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember that again."""
        ...


@dataclass(frozen=True, eq=False)
class Job:
    """What a pass asks of the loop.

    `loss` gives a scalar whose gradients reach the learners. The networks named in `keep_best` end as they were after
    their best-validating epoch, the state before the first one included; where one of them validates more than
    `largest_fall` points below that, the job ends. `before_epoch` gets the epoch's number and
    may switch what is trained; it runs again on resuming.
    """

    name: str
    epochs: int
    learners: Mapping[Role, Learner]
    loss: Loss
    warmup: float = 0.1
    keep_best: tuple[Role, ...] = ()
    largest_fall: float = math.inf
    teacher: nn.Module | None = None
    """Frozen; its logits are the loss's third argument and are kept for runs with the same views."""
    optimiser: OptimiserName = "sgd"
    before_epoch: Callable[[int], None] | None = None
    gradients: GradientRule | None = None
