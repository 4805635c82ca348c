"""The inner product of a tile by SMLAD: output pixels × output channels, over runs of expanded codes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qkd.targets.kernels.armv7e_m.gemm_ir import REGISTERS, multiply_ir, registers_needed
from qkd.targets.kernels.armv7e_m.shared_lanes import SharedLanes, Weights
from qkd.targets.kernels.thumb import code_pair, rolled
from qkd.tir.tir import Expr, Operand, Pointer, Register, call, constant, evaluate, intrinsic, let

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
    weights: Weights
    segments: int
    segment_quads: int
    pixel_words: int
    parts: int = 1
    """Equal runs of a segment after which lower sums are taken out, where channels share lanes."""

    @property
    def turns(self) -> int:
        """Turns of the inner loop in a run."""
        return self.segment_quads // self.tile.quads // self.parts

    @property
    def columns(self) -> int:
        """Accumulators of a pixel."""
        return self.tile.channels // self.weights.channels_per_lane

    @property
    def sums(self) -> int:
        """Sums that a tile keeps in memory between runs."""
        return self.tile.pixels * self.tile.channels

    @property
    def run_words(self) -> int:
        """Words of weights of one run."""
        return 2 * self.turns * self.tile.quads * self.columns // self.weights.pairs_per_word

    def is_possible(self) -> bool:
        """Whether turns come out whole, in flash words too, and the loop fits registers and offsets."""
        t = self.tile
        return (
            self.segment_quads % (t.quads * self.parts) == 0
            and 2 * t.quads * self.columns % self.weights.pairs_per_word == 0
            and registers_needed(t.pixels, self.columns, self.weights) <= REGISTERS
            and 4 * self.pixel_words * (t.pixels - 1) + 8 * (t.quads - 1) <= LDRD_OFFSET_LIMIT
        )

    @property
    def prelude(self) -> str:
        """LLVM IR of the inner loop."""
        tile = (self.tile.pixels, self.columns, self.tile.quads)
        return multiply_ir(tile, self.weights, self.turns, 4 * self.pixel_words)

    def accumulate(
        self, acc: Pointer, codes: Pointer, start: Callable[[Operand], Expr], packed: Pointer, first: Expr, mask: Expr
    ) -> None:
        """Add all products of a tile to `acc`, `sums` numbers.

        Segment i of its first pixel is at word `start(i)` of `codes`, its weights are at word `first` of `packed`.
        """
        with rolled(self.segments) as segment, rolled(self.parts) as part:
            code = start(segment) + part * (2 * self.turns * self.tile.quads)
            weight = first + (segment * self.parts + part) * self.run_words
            evaluate(
                call("int32", "armv7e_m_multiply", acc.address(0), codes.address(code), packed.address(weight), mask)
            )

    def begin(self, acc: Pointer, corrections: Sequence[Expr]) -> None:
        """Set the sums to what they start from."""
        shared = isinstance(self.weights, SharedLanes)
        for i in range(self.sums):
            acc[i] = constant(0) if shared else corrections[i // self.columns]

    def total(self, acc: Pointer, corrections: Sequence[Expr], pixel: int, channel: int) -> Expr:
        """The sum of products of a pixel and a channel of the tile."""
        if not isinstance(self.weights, SharedLanes):
            return acc[pixel * self.columns + channel]
        place = pixel * self.columns + channel // 2
        low = acc[self.tile.pixels * self.columns + place]
        return low + corrections[pixel] if channel % 2 == 0 else (acc[place] - low) >> self.weights.field_bits

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
