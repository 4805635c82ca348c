"""Candidates whose kernel begins its own sentence of why; see `candidate.py`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from qkd.kernel import Kernel
from qkd.targets.kernels import candidate


@dataclass(frozen=True)
class Candidate:
    """Weights are packed only for a candidate that is made."""

    variant: str
    cycles: int
    make: Callable[[str], Kernel]


def cheapest_first(candidates: Iterable[Candidate]) -> Iterator[candidate.Candidate]:
    """What the chooser takes; sizes are known from kernels that are written."""
    for found in sorted(candidates, key=lambda c: c.cycles):
        yield candidate.Candidate.of(found.make("safe"), found.cycles)
