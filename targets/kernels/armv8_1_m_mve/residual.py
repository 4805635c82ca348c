"""Residual adds in the kernel of a convolution on MVE: row after row of output pixels.

Before a row the addend's codes are put aside in the scratch; the convolution writes the row as it would alone, over the
addend where both tensors are the same memory; then the row gets what was put aside. That saves no instruction, but a
tensor of the arena. Adding to each quad before it is stored executes more instructions: the factors find no free
register beside a pass, and LLVM spills sums and weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qkd.graph.graph import Conv2dAdd, Op
from qkd.targets.kernels.armv8_1_m_mve.add import Codes, add_codes
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, copy_vector, same_memory, trip_count
from qkd.targets.kernels.epilogue import split_addend
from qkd.tir.tir import Expr, Pointer, let, loop, minimum


@dataclass(frozen=True)
class RowAdd:
    """Where the kept codes lie: behind the first `first_byte` bytes of the scratch."""

    op: Conv2dAdd
    row_codes: int
    """At least a vector."""
    first_byte: int

    @property
    def scratch_bytes(self) -> int:
        """The convolution's, and a row."""
        return self.first_byte + self.row_codes

    def keep(self, addend: Expr, scratch: Pointer, row: Expr) -> None:
        """Copy a row of the addend, given as `same_memory`; the last vector begins early enough to be whole."""
        with loop(trip_count(-(-self.row_codes // LANES))) as i:
            whole = self.row_codes % LANES == 0
            place = let(i * LANES if whole else minimum(i * LANES, self.row_codes - LANES))
            copy_vector(scratch.address(place + self.first_byte), addend, let(row * self.row_codes + place))

    def add(self, y: Pointer, scratch: Pointer, row: Expr) -> None:
        """Add what was kept to a row."""
        result = Codes(y, let(row * self.row_codes))
        add_codes(result, Codes(scratch, self.first_byte), result, self.row_codes, self.op.rescale)


def row_add(op: Op, row_codes: int, first_byte: int) -> RowAdd | None:
    """How an operator adds; None where it does not."""
    return RowAdd(op, row_codes, first_byte) if isinstance(op, Conv2dAdd) else None


def addend_of(op: Op, pointers: Sequence[Pointer], output: int) -> tuple[Expr | None, Sequence[Pointer]]:
    """The addend, as memory that may be that of the output, number `output` of the pointers behind it, and those."""
    addend, rest = split_addend(op, pointers)
    return (None if addend is None else same_memory(addend, rest[output])), rest
