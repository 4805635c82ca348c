"""Matrix product for in-order cores: MLA by element on int16, where LD4R and sums that follow closely would stall.

Everything is int16 and wraps. All 16 sums take a tap before the first takes the next, so none waits for itself; codes
come from registers by element, so nothing is broadcast. Out-of-order cores of Armv8.0 take two cycles for an MLA.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qkd.target import Target
from qkd.targets.kernels.armv8_a.neon import forget_loads, hide
from qkd.targets.kernels.armv8_a.patches import VECTOR_BYTES
from qkd.tir.tir import Expr, Operand, Pointer, Register, cast, high_half, let, loop, low_half, shuffle

IN_ORDER = frozenset({"cortex-a34", "cortex-a35", "cortex-a53"})
DEPTH = 8  # taps in a vector of int16
MOST_PAIRED_ROWS = 4  # with more, two vectors of codes a row would not fit the registers


def is_in_order(target: Target) -> bool:
    """Whether the core issues in order and has no dot product."""
    return target.mcpu in IN_ORDER


@dataclass
class ElementSums:
    """Running sums in int16: for each row of codes, the channels of a block in vectors of eight."""

    block: int
    """Channels, a multiple of eight."""
    rows: list[list[Register]] = field(default_factory=list)

    def add(self, memory: Pointer, places: Sequence[Expr], weights: Pointer, at: Expr, steps: int) -> None:
        """Add `steps` steps of eight taps: a row's codes are consecutive; row r of `weights` holds all channels."""
        pair = 2 if len(places) <= MOST_PAIRED_ROWS and steps % 2 == 0 else 1
        for first in range(0, steps, pair):
            codes = [[let(memory.load(p + step * DEPTH, DEPTH)) for step in range(first, first + pair)] for p in places]
            start = hide(at + first * (DEPTH * self.block))
            for tap in range(pair * DEPTH):
                row = start + tap * self.block
                vectors = [let(weights.load(row + v, 8)) for v in range(0, self.block, 8)]
                self._add_tap([code[tap // DEPTH] for code in codes], tap % DEPTH, vectors)
            forget_loads()

    def _add_tap(self, codes: Sequence[Expr], tap: int, channels: Sequence[Expr]) -> None:
        """The first products of a row need no zeros to add to."""
        is_first = not self.rows
        for row, code in enumerate(codes):
            element = shuffle((code,), (tap,) * 8)
            if is_first:
                self.rows.append([Register("int16x8", vector * element) for vector in channels])
                continue
            for acc, vector in zip(self.rows[row], channels, strict=True):
                acc.value = acc.value + vector * element


def widen_bytes(source: Pointer, start: Operand, size: int, to: Pointer, to_start: int) -> None:
    """Copy `size` codes, rounded up to whole vectors, as int16 from element `to_start` on."""
    with loop(-(-size // VECTOR_BYTES)) as i:
        codes = let(source.load(i * VECTOR_BYTES + start, VECTOR_BYTES))
        for half, part in enumerate((low_half, high_half)):
            to[i * VECTOR_BYTES + (to_start + 8 * half)] = cast(part(codes), "int16")
