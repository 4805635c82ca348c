"""From a graph to a library in one call, as the driver does it."""

from collections.abc import Sequence

from qkd.graph.graph import Op, QuantGraph
from qkd.lower.lower import Library, lower
from qkd.passes.graph.fuse_adds import FuseAdds
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.target import Target
from qkd.targets.kernels import choose_kernels, offers
from qkd.targets.kernels.choice import choose
from qkd.targets.kernels.fusing import adds_that_pay
from qkd.tir.kernel import Kernel


def planned(graph: QuantGraph, kernels: Sequence[Kernel]) -> QuantGraph:
    """Place every buffer that the kernels need."""
    scratch_bytes = {kernel.op: kernel.scratch_bytes for kernel in kernels}
    return PlanMemory(scratch_bytes, frozenset(kernel.op for kernel in kernels if kernel.in_place))(graph)


def kernels_of(graph: QuantGraph, op: Op, target: Target) -> list[Kernel]:
    """Every kernel that a device may choose for an operator, the one with the fewest estimated cycles first."""
    return [candidate.make() for candidate in choose(op.name, tuple(offers(graph, op, target)), 0.0, None).allowed]


def lowered(graph: QuantGraph, target: Target, kernels: Sequence[Kernel] | None = None) -> Library:
    """Plan the memory and lower; without `kernels`, fuse adds and choose kernels as the device has it best."""
    if kernels is None:
        graph = FuseAdds(adds_that_pay(graph, target))(graph)
        kernels = choose_kernels(graph, target)
    return lower(planned(graph, kernels), target, kernels)
