"""Put the body of an AArch64 kernel, its constants and its workspace together."""

from collections.abc import Callable, Sequence

from qkd.graph.graph import Op, QuantGraph, op_inputs
from qkd.targets.kernels.armv8_a.neon import PRELUDE
from qkd.tir.kernel import Constant, Kernel
from qkd.tir.tir import Param, Pointer, Program


def build_kernel(
    graph: QuantGraph, op: Op, variant: str, why: str, body: Callable[..., None],
    constants: Sequence[Constant] = (), scratch_bytes: int = 0, in_place: bool = False,
) -> Kernel:  # fmt: skip
    """Make a Kernel whose parameters follow from the contract: inputs, constants, output, scratch.

    `body` gets a Pointer for each, and None as its last argument where there is no scratch.
    """
    params = [Param(f"input_{i}", "int8", graph.values[name].elements) for i, name in enumerate(op_inputs(op))]
    params += [Param(f"constant_{i}", str(array.dtype), array.size) for i, array in enumerate(constants)]
    output = graph.values[op.output]
    params.append(Param("output", output.dtype, output.elements))
    if scratch_bytes:
        params.append(Param("scratch", "int8", scratch_bytes))

    def record(*pointers: Pointer) -> None:
        body(*pointers, *(() if scratch_bytes else (None,)))

    return Kernel(
        op.name,
        variant,
        Program(tuple(params), record, may_alias=in_place, prelude=PRELUDE),
        tuple(constants),
        scratch_bytes,
        in_place,
        why,
    )
