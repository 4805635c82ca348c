"""The inner product of a tile by SMLAD: output pixels × output channels, over runs of expanded codes."""

from collections.abc import Callable
from dataclasses import dataclass

from qkd.targets.kernels.armv7e_m_activations import code_pair, rolled
from qkd.targets.kernels.armv7e_m_gemm_ir import REGISTERS, multiply_ir, registers_needed
from qkd.targets.kernels.armv7e_m_weights import WeightFormat
from qkd.tir import Expr, Operand, Pointer, Register, call, constant, evaluate, intrinsic, let, minimum

LDRD_OFFSET_LIMIT = 1020


@dataclass(frozen=True)
class Tile:
    """Output pixels and channels whose accumulators are in registers, and quads of channels per turn of the loop."""

    pixels: int
    channels: int
    quads: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.channels}x{self.quads}"


@dataclass(frozen=True)
class Product:
    """The inner product of a tile: `segments` runs of `segment_quads` quads each.

    `pixel_words` lie between the codes of one pixel of the tile and those of the next.
    """

    tile: Tile
    weights: WeightFormat
    segments: int
    segment_quads: int
    pixel_words: int

    @property
    def turns(self) -> int:
        """Turns of the inner loop in a segment."""
        return self.segment_quads // self.tile.quads

    @property
    def segment_words(self) -> int:
        """Words of weights of one segment."""
        return 2 * self.segment_quads * self.tile.channels // self.weights.pairs_per_word

    def is_possible(self) -> bool:
        """Whether turns come out whole, in flash words too, and the loop fits registers and offsets."""
        t = self.tile
        return (
            self.segment_quads % t.quads == 0
            and 2 * t.quads * t.channels % self.weights.pairs_per_word == 0
            and registers_needed(t.pixels, t.channels, self.weights) <= REGISTERS
            and 4 * self.pixel_words * (t.pixels - 1) + 8 * (t.quads - 1) <= LDRD_OFFSET_LIMIT
        )

    @property
    def prelude(self) -> str:
        """LLVM IR of the inner loop."""
        tile = (self.tile.pixels, self.tile.channels, self.tile.quads)
        return multiply_ir(tile, self.weights, self.turns, 4 * self.pixel_words)

    def accumulate(
        self, acc: Pointer, codes: Pointer, start: Callable[[Operand], Expr], packed: Pointer, first: Expr, mask: Expr
    ) -> None:
        """Add all products of a tile to `acc` (pixels, channels).

        Segment i of its first pixel is at word `start(i)` of `codes`, its weights are at word `first` of `packed`.
        """
        with rolled(self.segments) as segment:
            places = codes.address(start(segment)), packed.address(first + segment * self.segment_words)
            evaluate(call("int32", "armv7e_m_multiply", acc.address(0), *places, mask))

    def corrections(self, codes: Pointer, start: Callable[[Operand], Expr]) -> list[Expr]:
        """What unsigned weights add too much, by pixel: their zero times the sum of the activations, negated."""
        sums = [Register() for _ in range(self.tile.pixels)]
        if self.weights.zero:
            factor = constant(code_pair(-self.weights.zero))
            with rolled(self.segments) as segment, rolled(2 * self.segment_quads) as word:
                first = start(segment) + word
                for pixel, total in enumerate(sums):
                    pair = codes[first + pixel * self.pixel_words]
                    total.value = intrinsic("int32", "llvm.arm.smlad", pair, factor, total.value)
        return [let(total.value) for total in sums]


def tile_start(number: Expr, size: int, count: int) -> Expr:
    """First element of a tile; the last one overlaps its neighbour where `size` does not divide `count`."""
    start = number * size
    return let(start if count % size == 0 else minimum(start, count - size))
