"""Kernels, and the choice of one for each operator: an explicit table from instruction set to families."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from qkd.errors import DoesNotFitError
from qkd.graph.graph import Conv2d, Conv2dAdd, DepthwiseConv2d, FullyConnected, Op, QuantGraph
from qkd.graph.steps import steps
from qkd.target import InstructionSet, Target
from qkd.targets.kernels import armv6_m, armv7e_m, armv8_1_m_mve, armv8_a, codebook, generic_cost
from qkd.targets.kernels.candidate import Offer
from qkd.targets.kernels.choice import Choice, choose, flash_byte_cycles
from qkd.tir.kernel import Kernel

Family: TypeAlias = Callable[[QuantGraph, Op, Target], Iterable[Offer]]
"""Gives the kernels that it can prove safe for an operator, each with its cost, and those whose proof fails."""

FAMILIES: dict[InstructionSet, tuple[Family, ...]] = {
    "host": (generic_cost.candidates,),
    "armv6-m": (armv6_m.candidates, generic_cost.candidates),
    "armv7e-m": (armv7e_m.candidates, generic_cost.candidates),
    "armv8.1-m.mve": (armv8_1_m_mve.candidates, generic_cost.candidates),
    "armv8.0-a": (armv8_a.candidates, generic_cost.candidates),
    "armv8.2-a.dotprod": (armv8_a.candidates, generic_cost.candidates),
    "armv8.6-a.i8mm": (armv8_a.candidates, generic_cost.candidates),
}


def choose_kernels(graph: QuantGraph, target: Target, scratch_cap_bytes: int | None = None) -> tuple[Kernel, ...]:
    """Choose and write a kernel for every operator but reshapes, in execution order.

    Parameters and errors are those of `choices`.
    """
    return tuple(choice.kernel() for choice in choices(graph, target, scratch_cap_bytes))


def choices(graph: QuantGraph, target: Target, scratch_cap_bytes: int | None = None) -> tuple[Choice, ...]:
    """Choose a kernel for every operator but reshapes, in execution order.

    Parameters
    ----------
    graph : QuantGraph
        With or without a memory plan: the plan needs the kernels' scratch sizes.
    target : Target
    scratch_cap_bytes : int, optional
        The largest workspace that a kernel may ask for; None: no limit.

    Returns
    -------
    tuple of Choice

    Raises
    ------
    DoesNotFitError
        When no kernel of an operator is content with `scratch_cap_bytes`.
    """
    ops = steps(graph)
    offered = [tuple(offers(graph, op, target)) for op in ops]
    byte_cycles = flash_byte_cycles(offered, target)
    found = tuple(choose(op.name, of, byte_cycles, scratch_cap_bytes) for op, of in zip(ops, offered, strict=True))
    for choice, of in zip(found, offered, strict=True):
        if not choice.allowed:
            raise _too_much_scratch(graph, choice.op, of, target, scratch_cap_bytes)
    return found


def offers(graph: QuantGraph, op: Op, target: Target) -> Iterator[Offer]:
    """All that the families of a device offer for an operator, in their order."""
    weighted = Conv2d | Conv2dAdd | DepthwiseConv2d | FullyConnected
    if isinstance(op, weighted) and graph.values[op.weight].codebook is not None:
        yield from codebook.candidates(graph, op, target, lambda plain: offers(plain, op, target))
        yield from generic_cost.candidates(graph, op, target)
        return
    for family in FAMILIES[target.instruction_set]:
        yield from family(graph, op, target)


def _too_much_scratch(
    graph: QuantGraph, op: str, of: Sequence[Offer], target: Target, cap: int | None
) -> DoesNotFitError:  # fmt: skip
    smallest = min(choose(op, of, 0, None).allowed, key=lambda candidate: candidate.scratch_bytes)
    return DoesNotFitError(
        f"{op!r} of {graph.name!r} needs at least {smallest.scratch_bytes:,} bytes of scratch on {target.name} "
        f"({smallest.variant}); {cap:,} are allowed. Allow more, or use fewer channels or a smaller window."
    )
