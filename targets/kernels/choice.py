"""The choice of one kernel for an operator: the cheapest that is safe and whose scratch is allowed, and why."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qkd.target import Target
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.tir.kernel import Kernel

FLASH_WORTH: Mapping[str, float] = {"cortex_m": 1.0, "aarch64": 0.0, "host": 0.0}
"""Per cent of a network's cycles that one per cent of its flash is worth, by kind of device.

With 1 the product of both is what becomes small. Few-bit weights are there to save flash, and unpacking them may cost
more cycles than bytes would, as on Cortex-M55: without a price they would be stored as bytes. A Linux board has flash
enough.
"""
REFUSALS_SHOWN = 4


@dataclass(frozen=True)
class Choice:
    """What was chosen for an operator, and what from."""

    op: str
    allowed: tuple[Candidate, ...]
    """Cheapest first."""
    refused: tuple[Refused, ...]

    def kernel(self) -> Kernel:
        """Write the cheapest; its `why` says what it was compared with, and why it is safe."""
        kernel = self.allowed[0].make()
        return replace(kernel, why=f"{self.costs}; {kernel.why}")

    @property
    def costs(self) -> str:
        """The estimates of the chosen kernel and of the next best."""
        best, *others = self.allowed
        beside = f"; next {_cost(others[0])}" if others else ", the only one allowed"
        return f"estimated at {_numbers(best)}{beside}"

    def lines(self) -> Iterator[str]:
        """What was refused, for `qkd lower -v`."""
        for refused in self.refused[:REFUSALS_SHOWN]:
            yield f"not {refused.variant}: {refused.reason}"
        if len(self.refused) > REFUSALS_SHOWN:
            yield f"not {len(self.refused) - REFUSALS_SHOWN} more"


def flash_byte_cycles(offers_of_ops: Iterable[Sequence[Offer]], target: Target) -> float:
    """How many cycles of an inference a byte of flash is worth in a network: `FLASH_WORTH` of its cycles a byte."""
    cycles, flash_bytes = 0, 0
    for offers in offers_of_ops:
        candidates = _candidates(offers)
        cycles += min((c.cycles for c in candidates), default=0)
        flash_bytes += min((c.flash_bytes for c in candidates), default=0)
    return FLASH_WORTH[target.kind] * cycles / flash_bytes if flash_bytes else 0.0


def choose(op: str, offers: Sequence[Offer], byte_cycles: float, scratch_cap_bytes: int | None) -> Choice:
    """Rank what the families offer; of each variant the cheapest form stays.

    Parameters
    ----------
    op : str
        The operator's name.
    offers : sequence of Candidate or Refused
    byte_cycles : float
        What a byte of flash costs, from `flash_byte_cycles`.
    scratch_cap_bytes : int or None
        The largest workspace that is allowed; None: no limit.

    Returns
    -------
    Choice
        `allowed` is empty where nothing is.
    """
    ranked = _distinct(sorted(_candidates(offers), key=lambda c: c.cycles + byte_cycles * c.flash_bytes))
    fits = [c for c in ranked if scratch_cap_bytes is None or c.scratch_bytes <= scratch_cap_bytes]
    too_large = [
        Refused(c.variant, f"{c.scratch_bytes:,} bytes of scratch, {scratch_cap_bytes:,} are allowed")
        for c in ranked
        if c not in fits
    ]
    unsafe = [offer for offer in offers if isinstance(offer, Refused)]
    return Choice(op, tuple(fits), (*too_large, *dict.fromkeys(unsafe)))


def _candidates(offers: Iterable[Offer]) -> list[Candidate]:
    return [offer for offer in offers if isinstance(offer, Candidate)]


def _distinct(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The first of each variant."""
    first: dict[str, Candidate] = {}
    for candidate in ranked:
        first.setdefault(candidate.variant, candidate)
    return list(first.values())


def _numbers(candidate: Candidate) -> str:
    return f"{candidate.cycles:,} cycles and {candidate.flash_bytes:,} bytes of flash"


def _cost(candidate: Candidate) -> str:
    return f"{candidate.variant}: {_numbers(candidate)}"
