"""A way to compute an operator that was proved safe, with what it costs: what the choice is made from."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from qkd.kernel import Kernel


@dataclass(frozen=True)
class Candidate:
    """Weights are packed only for a candidate that is made."""

    variant: str
    cycles: int
    """Estimate of `armv7e_m_cost`."""
    make: Callable[[str], Kernel]
    """Makes the kernel, given the first half of the sentence that says why."""


def cheapest_first(candidates: Iterable[Candidate]) -> Iterator[Kernel]:
    """Kernels in order of their estimated cycles; estimates take microseconds, so nothing is cached."""
    order = sorted(candidates, key=lambda candidate: candidate.cycles)
    for candidate in order:
        other = next((c for c in order if c.variant != candidate.variant), None)
        beside = f" ({other.variant}: {other.cycles:,})" if other else ""
        yield candidate.make(f"estimated at {candidate.cycles:,} cycles{beside}")
