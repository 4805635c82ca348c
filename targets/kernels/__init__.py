"""Kernels, and the choice of one for each operator: an explicit table from instruction set to families, best first."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from qkd.errors import DoesNotFitError
from qkd.graph import Conv2d, Conv2dAdd, DepthwiseConv2d, FullyConnected, Op, QuantGraph, Reshape
from qkd.kernel import Kernel
from qkd.target import InstructionSet, Target
from qkd.targets.kernels import armv7e_m, armv8_1_m_mve, armv8_a, generic

Family: TypeAlias = Callable[[QuantGraph, Op, Target], Iterable[Kernel]]
"""Gives the kernels that it can prove safe for an operator, best first; nothing where it has none."""

FAMILIES: dict[InstructionSet, tuple[Family, ...]] = {
    "host": (generic.candidates,),
    "armv6-m": (generic.candidates,),
    "armv7e-m": (armv7e_m.candidates, generic.candidates),
    "armv8.1-m.mve": (armv8_1_m_mve.candidates, generic.candidates),
    "armv8.0-a": (armv8_a.candidates, generic.candidates),
    "armv8.2-a.dotprod": (armv8_a.candidates, generic.candidates),
    "armv8.6-a.i8mm": (armv8_a.candidates, generic.candidates),
}


def choose_kernels(graph: QuantGraph, target: Target, scratch_cap_bytes: int | None = None) -> tuple[Kernel, ...]:
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
    tuple of Kernel

    Raises
    ------
    DoesNotFitError
        When no kernel of an operator is content with `scratch_cap_bytes`.
    """
    return tuple(_choose(graph, op, target, scratch_cap_bytes) for op in graph.ops if not isinstance(op, Reshape))


def _families(graph: QuantGraph, op: Op, target: Target) -> tuple[Family, ...]:
    """Those of the instruction set; only the generic one keeps a codebook's indices packed in flash."""
    weighted = Conv2d | Conv2dAdd | DepthwiseConv2d | FullyConnected
    if isinstance(op, weighted) and graph.values[op.weight].codebook is not None:
        return (generic.candidates,)
    return FAMILIES[target.instruction_set]


def _choose(graph: QuantGraph, op: Op, target: Target, cap: int | None) -> Kernel:
    """The first kernel whose scratch is allowed: each family gives its own cheapest first."""
    refused = []
    for family in _families(graph, op, target):
        for kernel in family(graph, op, target):
            if cap is None or kernel.scratch_bytes <= cap:
                return kernel
            refused.append(kernel)
    smallest = min(refused, key=lambda kernel: kernel.scratch_bytes)
    raise DoesNotFitError(
        f"{op.name!r} of {graph.name!r} needs at least {smallest.scratch_bytes:,} bytes of scratch on {target.name} "
        f"({smallest.variant}); {cap:,} are allowed. Allow more, or use fewer channels or a smaller window."
    )
