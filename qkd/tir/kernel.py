"""One way to compute one operator on one device: a TIR function, its constants and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qkd.tir.tir import Program


Constant: TypeAlias = NDArray[np.int8] | NDArray[np.uint8] | NDArray[np.int16] | NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Kernel:
    """A safe implementation of an operator.

    The function `build(symbol)` takes pointers in this order: the operator's inputs as `op_inputs` lists them,
    `constants`, the output, and the scratch where `scratch_bytes` is not 0. The kernel of a `Conv2dAdd` gets the
    convolution's input and then the addend; a family that has none yields nothing for it, and both stay apart.
    """

    op: str
    variant: str
    """Name of the template and its parameters, e.g. `generic` or `smlad_2x2`."""
    build: Program
    constants: tuple[Constant, ...]
    scratch_bytes: int = 0
    in_place: bool = False
    """The output may be the same bytes as an input that `QuantGraph.in_place_sources` names.

    Of a `Conv2dAdd` that is the addend: no element may be computed twice, as where tiles overlap, or it is added twice.
    """
    why: str = "the only variant"
    """One sentence for `qkd lower -v`: why it was chosen and why it is safe."""
