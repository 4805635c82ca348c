"""Which residual adds a device computes in the kernel of the convolution before them."""

from qkd.graph import QuantGraph
from qkd.passes.fuse_adds import fusable_adds, fuse_adds
from qkd.target import Target
from qkd.targets.kernels import choices
from qkd.targets.kernels.generic import WITH_ADD


def adds_that_pay(graph: QuantGraph, target: Target, scratch_cap_bytes: int | None = None) -> frozenset[str]:
    """Names of the adds that cost less in the kernel of their convolution.

    Those whose convolution is computed by the same variant alone and fused: then nothing is done but what both did,
    less a store, a load and a loop. Where the best kernel has no fused form, another would be slower by more.

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
    alone, fused = (
        {choice.op: choice.allowed[0].variant for choice in choices(version, target, scratch_cap_bytes)}
        for version in (graph, fuse_adds(graph, pairs))
    )
    return frozenset(pair.add.name for pair in pairs if fused[pair.name] == alone[pair.conv.name] + WITH_ADD)
