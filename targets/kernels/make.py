"""A kernel's body, constants and needs become a `Kernel`."""

from collections.abc import Callable

from qkd.graph.graph import Conv2dAdd, Op, QuantGraph, op_inputs
from qkd.tir.kernel import Constant, Kernel
from qkd.tir.tir import Param, Program

WITH_ADD = "+add"
"""Ends the variant's name of a fused kernel, whatever the family."""


def variant_name(op: Op, variant: str) -> str:
    """A template's name for an operator: that of a fused one says so."""
    return variant + WITH_ADD if isinstance(op, Conv2dAdd) else variant


def make_kernel(
    graph: QuantGraph, op: Op, body: Callable[..., None], constants: tuple[Constant, ...] = (), scratch_bytes: int = 0,
    in_place: bool = False, *, variant: str = "generic", why: str = "the only variant", prelude: str = "",
    alias_hidden: bool = False,
) -> Kernel:  # fmt: skip
    """Put a body and its constants together; the parameters follow from the contract of `Kernel`.

    With `alias_hidden` the body itself hides from LLVM which input may be the output's memory.
    """
    params = [Param(f"input_{i}", "int8", graph.values[name].elements) for i, name in enumerate(op_inputs(op))]
    params += [Param(f"constant_{i}", str(array.dtype), array.size) for i, array in enumerate(constants)]
    output = graph.values[op.output]
    params.append(Param("output", output.dtype, output.elements))
    if scratch_bytes:
        params.append(Param("scratch", "int8", scratch_bytes))
    return Kernel(
        op.name,
        variant_name(op, variant),
        Program(tuple(params), body, may_alias=in_place and not alias_hidden, prelude=prelude),
        constants,
        scratch_bytes,
        in_place,
        why,
    )
