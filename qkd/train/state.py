"""What flows through the training passes, and the rules that hold of it.

Nothing here loads torch, so that a recipe's passes can be built and their order checked without it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from qkd.base.progress import Reporter, Silent
from qkd.bits import Bits
from qkd.errors import InvariantError
from qkd.recipe import TrainSpec
from qkd.student.finite import not_finite
from qkd.train.history import HistoryPoint, PassFact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from qkd.data.datasets import Dataset
    from qkd.student.student import QuantStudent

Role: TypeAlias = Literal["teacher", "student", "quantized"]
"""A network of the state: the teacher, the float student, the quantized student."""


@dataclass(frozen=True, eq=False)
class Session:
    """Where a run keeps its checkpoints, one folder a pass (none: it keeps nothing), and how it reports."""

    folders: tuple[Path, ...] = ()
    reporter: Reporter = field(default_factory=Silent)


@dataclass(frozen=True, eq=False)
class TrainState:
    """Networks, data and what happened so far; a pass returns the next state and leaves this one as it was."""

    data: Dataset
    settings: TrainSpec
    bits: Bits
    teacher: nn.Module
    student: nn.Module
    quantized: QuantStudent | None = None
    trained: frozenset[Role] = frozenset()
    history: tuple[HistoryPoint, ...] = ()
    passes: tuple[PassFact, ...] = ()
    session: Session = field(default_factory=Session)

    def student_to_train(self) -> QuantStudent:
        """The quantized student, which `requires` of the calling pass has promised."""
        if self.quantized is None:
            raise InvariantError("a pass that trains the quantized student ran before one that makes it")
        return self.quantized

    def checkpoint_folder(self) -> Path | None:
        """Where the next pass keeps its checkpoints."""
        return self.session.folders[len(self.passes)] if self.session.folders else None

    def seed(self, purpose: str, epoch: int = 0) -> int:
        """A seed for one purpose in one epoch of the next pass: all that is random in a run derives from it."""
        return derived_seed(self.settings.seed, len(self.passes), epoch, purpose)

    def after(
        self, fact: PassFact, networks: Mapping[Role, nn.Module], history: tuple[HistoryPoint, ...] = ()
    ) -> TrainState:
        """The state after a pass that made new `networks`."""
        changes: dict[str, Any] = {str(role): network for role, network in networks.items()}
        trained = self.trained | set(networks)
        passes = (*self.passes, fact)
        return replace(self, trained=trained, history=self.history + history, passes=passes, **changes)


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all `parts`."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def teacher_is_trained(state: TrainState) -> str | None:
    """The teacher has been trained."""
    return _trained_and_finite(state, "teacher", state.teacher)


def student_is_trained(state: TrainState) -> str | None:
    """The float student has been trained."""
    return _trained_and_finite(state, "student", state.student)


def student_is_quantized(state: TrainState) -> str | None:
    """The student is quantized, and its steps are positive."""
    if state.quantized is None:
        return "no pass has quantized the student"
    dead = [name for name, step in state.quantized.steps().items() if float(step.min()) <= 0]
    return f"the steps of {dead} are not positive" if dead else _trained_and_finite(state, "quantized", state.quantized)


def _trained_and_finite(state: TrainState, role: Role, network: nn.Module) -> str | None:
    if role not in state.trained:
        return f"no pass has trained the {role}"
    broken = not_finite(network.state_dict())
    return f"{broken} of the {role} holds NaN or infinity" if broken else None
