"""The driver: the only file that knows the whole order, from a recipe to proved firmware.

    recipe ─► check ─► train ─► freeze ─► plan ─► lower ─► verify ─► profile ─► bundle ─► report

What is finished lies in the run's folder under a hash of all it depends on, so a run that was interrupted, killed or
changed in one place goes on where it can.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qkd import report
from qkd.bits import Bits
from qkd.errors import DoesNotFitError
from qkd.files import write_atomic
from qkd.graph import QuantGraph
from qkd.kernel import Kernel
from qkd.lower import Library, lower
from qkd.passes.plan_memory import PlanMemory, placed_blocks
from qkd.pipeline import run_passes
from qkd.recipe import BudgetSpec, VerifySpec
from qkd.results import BufferFact, RunResult
from qkd.target import Target
from qkd.targets.kernels import choose_kernels


@dataclass(frozen=True, eq=False)
class Plan:
    """A graph with its place in memory and the kernels that compute it on one device."""

    graph: QuantGraph
    kernels: tuple[Kernel, ...]

    def buffers(self) -> tuple[BufferFact, ...]:
        """The arena's buffers, as the report draws them."""
        blocks = placed_blocks(self.graph, {k.op: k.scratch_bytes for k in self.kernels})
        return tuple(
            BufferFact(name=b.names[0], offset_bytes=at, size_bytes=b.size_bytes, first=b.first, last=b.last, scratch=s)
            for b, at, s in blocks
        )


def plan(graph: QuantGraph, target: Target, budget: BudgetSpec) -> Plan:
    """Choose kernels and place every buffer, or raise DoesNotFitError; shapes are enough, so it also runs untrained."""
    kernels = choose_kernels(graph, target, budget.scratch_bytes)
    memory = PlanMemory(
        scratch_bytes={k.op: k.scratch_bytes for k in kernels},
        in_place=frozenset(k.op for k in kernels if k.in_place),
        sram_bytes=_smallest(target.sram_bytes, budget.arena_bytes),
        device=target.name,
    )
    planned = run_passes((memory,), graph)
    _check_flash(sum(c.nbytes for k in kernels for c in k.constants), graph.name, target, budget, "the weights alone")
    return Plan(planned, kernels)


def build(planned: Plan, target: Target, budget: BudgetSpec) -> Library:
    """Lower a planned graph for one device, or raise DoesNotFitError."""
    library = lower(planned.graph, target, planned.kernels)
    _check_flash(library.flash_bytes, library.name, target, budget, "code and weights")
    return library


def model_name(recipe_name: str, bits: str) -> str:
    """The C prefix of one format's model: `digits` and "ternary-A8" give `digits_ternary_a8`."""
    return f"{recipe_name}_{str(Bits.parse(bits)).lower().replace('-', '_')}"


def images_to_verify(target: Target, counts: VerifySpec, available: int) -> int:
    """How many test images a device has to compute; 0 in the recipe is all of them."""
    wanted: int = getattr(counts, target.kind)
    return min(wanted or available, available)


def write_report(folder: Path, result: RunResult) -> Path:
    """Write report.html and return its path."""
    path = folder / "report.html"
    write_atomic(path, report.html(result))
    return path


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _check_flash(need_bytes: int, name: str, target: Target, budget: BudgetSpec, what: str) -> None:
    limit = _smallest(target.flash_bytes, budget.flash_bytes)
    if limit is not None and need_bytes > limit:
        raise DoesNotFitError(
            f"{what} of {name!r} take {need_bytes:,} bytes of flash on {target.name}; {limit:,} are available. "
            "Use fewer weight bits, a narrower student or a larger flash budget."
        )
