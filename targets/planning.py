"""A graph on a device, within the device's memory and the recipe's budgets: kernels, arena, library."""

from collections.abc import Sequence
from dataclasses import dataclass

from qkd.errors import DoesNotFitError
from qkd.graph.arena import BufferFact
from qkd.graph.graph import QuantGraph
from qkd.lower.lower import Library, lower
from qkd.passes.graph.fuse_adds import FuseAdds
from qkd.passes.graph.plan_memory import PlanMemory, placed_blocks
from qkd.pipeline import run_passes
from qkd.recipe import BudgetSpec
from qkd.target import Target
from qkd.targets.kernels import choices
from qkd.targets.kernels.choice import Choice
from qkd.targets.kernels.fusing import adds_that_pay
from qkd.tir.kernel import Kernel


@dataclass(frozen=True, eq=False)
class Plan:
    """A graph with its place in memory and the kernels that compute it on one device."""

    graph: QuantGraph
    kernels: tuple[Kernel, ...]
    choices: tuple[Choice, ...]
    """What each kernel was chosen from."""

    def buffers(self) -> tuple[BufferFact, ...]:
        """The arena's buffers, as the report draws them."""
        blocks = placed_blocks(self.graph, {k.op: k.scratch_bytes for k in self.kernels})
        return tuple(
            BufferFact(name=b.names[0], offset_bytes=at, size_bytes=b.size_bytes, first=b.first, last=b.last, scratch=s)
            for b, at, s in blocks
        )


def plan(graph: QuantGraph, target: Target, budget: BudgetSpec) -> Plan:
    """Choose kernels and place every buffer, or raise DoesNotFitError; shapes are enough, so it also runs untrained.

    Where the arena is too small for the fastest kernels, all must do with less scratch, step by step.
    """
    cap, too_large = budget.scratch_bytes, None
    while True:
        try:
            fuse = FuseAdds(adds_that_pay(graph, target, cap))
            found = choices(fuse(graph), target, cap)
        except DoesNotFitError as error:  # a kernel needs more than the cap
            raise too_large or error from None
        kernels = tuple(choice.kernel() for choice in found)
        constant_bytes = sum(constant.nbytes for kernel in kernels for constant in kernel.constants)
        try:
            planned = run_passes((fuse, _memory(kernels, target, budget)), graph)
        except DoesNotFitError as error:
            too_large = too_large or error
            largest = max(kernel.scratch_bytes for kernel in kernels)
            if not largest:
                raise too_large from None
            cap = largest * 7 // 8
        else:
            _check_flash(constant_bytes, graph.name, target, budget, "the weights alone")
            return Plan(planned, kernels, found)


def build(planned: Plan, target: Target, budget: BudgetSpec) -> Library:
    """Lower a planned graph for one device, or raise DoesNotFitError."""
    library = lower(planned.graph, target, planned.kernels)
    _check_flash(library.flash_bytes, library.name, target, budget, "code and weights")
    return library


def _memory(kernels: Sequence[Kernel], target: Target, budget: BudgetSpec) -> PlanMemory:
    return PlanMemory(
        scratch_bytes={k.op: k.scratch_bytes for k in kernels},
        in_place=frozenset(k.op for k in kernels if k.in_place),
        sram_bytes=_smallest(target.sram_bytes, budget.arena_bytes),
        device=target.name,
    )


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _check_flash(need_bytes: int, name: str, target: Target, budget: BudgetSpec, what: str) -> None:
    limit = _smallest(target.flash_bytes, budget.flash_bytes)
    if limit is not None and need_bytes > limit:
        raise DoesNotFitError(
            f"{what} of {name!r} take {need_bytes:,} bytes of flash on {target.name}; {limit:,} are available. "
            "Use fewer weight bits, a narrower student or a larger flash budget."
        )
