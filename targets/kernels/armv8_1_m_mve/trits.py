"""Ternary weights on MVE at 1.6 bits: five trits a byte in flash, expanded to two bits each in scratch once a call.

Four vectors of bytes with five trits become five vectors of bytes with four. A byte is a fraction of 8 bits whose first
five digits in base 3 are its trits: multiplying it by 3 gives one after the other above the point.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, load_aligned, mulhi_unsigned, trip_count
from qkd.tir.tir import Expr, Pointer, Register, broadcast, constant, let, loop

TRITS = 5
"""Trits in a byte: 3**5 < 2**8, so a fraction for each of the 243 values exists."""

FIELDS = 4
"""Fields of two bits in a byte."""

LOW_BITS = 0b01_01_01_01
"""The lower bit of each field."""


@dataclass(frozen=True)
class Trits:
    """How bytes of four ternary fields lie in flash, and where in the scratch they are expanded."""

    expanded_bytes: int
    """Bytes of fields that a kernel reads."""
    first_byte: int
    """Where they begin in the scratch."""

    @property
    def groups(self) -> int:
        """Groups of 64 packed and 80 expanded bytes."""
        return -(-self.expanded_bytes // (TRITS * LANES))

    @property
    def packed_bytes(self) -> int:
        """Bytes in flash."""
        return self.groups * FIELDS * LANES

    @property
    def scratch_bytes(self) -> int:
        """All of the scratch, what lies before the weights included."""
        return self.first_byte + self.groups * TRITS * LANES

    def pack(self, fields: NDArray[np.int8]) -> NDArray[np.int8]:
        """Pack bytes whose four fields, two's complement, are -1, 0 or 1: int8 of any shape → int8 (packed_bytes,).

        Byte j of vector f of a group holds field f of byte j of each of the five vectors that it becomes.
        """
        filled = np.zeros(self.groups * TRITS * LANES, np.int64)
        filled[: fields.size] = fields.ravel().view(np.uint8)
        codes = filled.reshape(self.groups, TRITS, 1, LANES) >> 2 * np.arange(FIELDS)[:, None] & 3
        digits = codes - (codes >> 1)  # 0, 1 and -1, which is 3 in two bits, are digits 0, 1 and 2
        value = (digits * 3 ** np.arange(TRITS - 1, -1, -1)[:, None, None]).sum(axis=1)
        fraction = -(-(value << 8) // 3**TRITS)
        return np.asarray(fraction.astype(np.uint8).view(np.int8).ravel())

    def expand(self, packed: Pointer, scratch: Pointer) -> None:
        """Write the bytes of fields into the scratch."""
        three, low_bits = (let(broadcast(constant(code, "int8"), LANES)) for code in (3, LOW_BITS))
        with loop(self.groups) as group:
            start = let(group * (FIELDS * LANES))
            fractions = [Register(f"int8x{LANES}", load_aligned(packed, start + f * LANES)) for f in range(FIELDS)]
            to = let(group * (TRITS * LANES) + self.first_byte)
            with loop(trip_count(TRITS)) as trit:
                digits = let(_next_digits(fractions, three))
                scratch[to + trit * LANES] = digits | digits >> 1 & low_bits


def _next_digits(fractions: list[Register], three: Expr) -> Expr:
    """The next digit of each fraction, in fields: the last fraction's in the top one."""
    digits = constant(0, three.dtype)
    for fraction in reversed(fractions):
        digit = let(mulhi_unsigned(fraction.value, three))
        fraction.value = fraction.value * three  # of eight bits too: what lies above the point is gone
        digits = let((digits << 2) + digit)
    return digits
