"""Which residual adds a device computes in the kernel of the convolution before them."""

from collections.abc import Collection, Mapping

from qkd.graph.graph import Conv2dAdd, QuantGraph
from qkd.passes.graph.fuse_adds import fusable_adds, fuse_adds
from qkd.passes.graph.plan_memory import plan
from qkd.target import Target
from qkd.targets.kernels import choices
from qkd.targets.kernels.choice import Choice
from qkd.targets.kernels.make import WITH_ADD
from qkd.tir.kernel import Kernel


def adds_that_pay(graph: QuantGraph, target: Target, scratch_cap_bytes: int | None = None) -> frozenset[str]:
    """Names of the adds to fuse: those that cost fewer cycles so by the estimates, and those that shrink the arena.

    Only where the convolution is computed by the same variant alone and fused: where the best kernel has no fused form,
    another would lose more than fusing gains.

    Parameters
    ----------
    graph : QuantGraph
        Not fused yet.
    target : Target
    scratch_cap_bytes : int, optional
        As for `choices`.

    Raises
    ------
    DoesNotFitError
        As `choices`.
    """
    pairs = tuple(fusable_adds(graph))
    if not pairs:
        return frozenset()
    versions = (graph, fuse_adds(graph, pairs))
    found = {c.op: c for version in versions for c in choices(version, target, scratch_cap_bytes)}
    wanted = [pair for pair in pairs if _variant(found, pair.name) == _variant(found, pair.conv.name) + WITH_ADD]
    dearer = [pair for pair in wanted if not _costs_less(found, pair)]
    kernels = {op: choice.kernel() for op, choice in found.items()} if dearer else {}
    for pair in dearer:
        fewer = [other for other in wanted if other is not pair]
        if _arena_bytes(graph, fewer, kernels) <= _arena_bytes(graph, wanted, kernels):
            wanted = fewer
    return frozenset(pair.add.name for pair in wanted)


def _variant(found: Mapping[str, Choice], op: str) -> str:
    return found[op].allowed[0].variant


def _costs_less(found: Mapping[str, Choice], pair: Conv2dAdd) -> bool:
    fused, *apart = (found[op].allowed[0].cycles for op in (pair.name, pair.conv.name, pair.add.name))
    return fused < sum(apart)


def _arena_bytes(graph: QuantGraph, pairs: Collection[Conv2dAdd], kernels: Mapping[str, Kernel]) -> int:
    fused = fuse_adds(graph, pairs)
    used = [kernels[op.name] for op in fused.ops if op.name in kernels]
    in_place = frozenset(kernel.op for kernel in used if kernel.in_place)
    return plan(fused, {kernel.op: kernel.scratch_bytes for kernel in used}, in_place).arena_bytes or 0
