"""What a kernel is chosen from: ways to compute an operator that are proved safe, with costs, and those refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from qkd.tir.kernel import Kernel


@dataclass(frozen=True)
class Candidate:
    """A kernel that is proved safe; `make` writes it and packs its weights, which only the chosen one needs."""

    variant: str
    cycles: int
    """Estimated cycles of one call on the device; the family's cost model says what it was fitted to."""
    flash_bytes: int
    """Of the constants, and of code that other candidates do not have."""
    scratch_bytes: int
    make: Callable[[], Kernel]

    @classmethod
    def of(cls, kernel: Kernel, cycles: int) -> Candidate:
        """The candidate of a kernel that is written already."""
        flash_bytes = sum(constant.nbytes for constant in kernel.constants)
        return cls(kernel.variant, cycles, flash_bytes, kernel.scratch_bytes, lambda: kernel)


@dataclass(frozen=True)
class Refused:
    """A kernel that may not be used."""

    variant: str
    reason: str
    """Which bound it breaks, and by how much."""


Offer: TypeAlias = Candidate | Refused
"""What a family gives for an operator; kernels whose shapes do not suit it are not mentioned."""
