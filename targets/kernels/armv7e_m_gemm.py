"""Convolution and fully connected layers by SMLAD: a tile of output pixels × output channels in registers."""

from collections.abc import Callable
from dataclasses import dataclass

from qkd.targets.kernels.armv7e_m_activations import rolled
from qkd.targets.kernels.armv7e_m_weights import WeightFormat
from qkd.tir import Expr, Operand, Pointer, Register, constant, intrinsic, let, minimum


@dataclass(frozen=True)
class Tile:
    """Output pixels and channels whose accumulators are in registers, and quads of channels per turn of the loop."""

    pixels: int
    channels: int
    quads: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.channels}x{self.quads}"


Accumulators = list[list[Register]]


@dataclass(frozen=True)
class Product:
    """The inner product of a tile: what is read from where, `segments` runs of `segment_quads` quads each."""

    tile: Tile
    weights: WeightFormat
    segments: int
    segment_quads: int
    pixel_words: int
    """From one pixel of the tile to the next."""
    segment_start: Callable[[Operand], Expr]
    """Word at which a segment of the tile's first pixel starts."""

    @property
    def step_words(self) -> int:
        """Words of weights per turn of the loop."""
        return 2 * self.tile.quads * self.tile.channels // self.weights.pairs_per_word

    def accumulate(self, acc: Accumulators, codes: Pointer, packed: Pointer, first: Expr, mask: Expr) -> None:
        """Add all products of a tile; its weights start at word `first`."""
        steps = self.segment_quads // self.tile.quads
        with rolled(self.segments) as segment:
            start = let(self.segment_start(segment))
            at_weights = let(first + segment * (steps * self.step_words))
            with rolled(steps) as step:
                words = let(at_weights + step * self.step_words)
                self._step(acc, codes, start + step * (2 * self.tile.quads), packed, words, mask)

    def _step(self, acc: Accumulators, codes: Pointer, start: Expr, packed: Pointer, first: Expr, mask: Expr) -> None:
        word: dict[int, Expr] = {}
        for quad in range(self.tile.quads):
            pairs = [self._pairs(codes, start, pixel, quad) for pixel in range(self.tile.pixels)]
            for channel in range(self.tile.channels):
                for half in range(2):
                    number = (quad * self.tile.channels + channel) * 2 + half
                    index, field = divmod(number, self.weights.pairs_per_word)
                    if index not in word:
                        word[index] = let(packed[first + index])
                    weight = self.weights.unpack(word[index], field, mask)
                    for pixel in range(self.tile.pixels):
                        register = acc[pixel][channel]
                        register.value = smlad(pairs[pixel][half], weight, register.value)

    def _pairs(self, codes: Pointer, start: Expr, pixel: int, quad: int) -> tuple[Expr, Expr]:
        at = start + (pixel * self.pixel_words + 2 * quad)
        return let(codes[at]), let(codes[at + 1])

    def corrections(self, codes: Pointer) -> list[Expr]:
        """What unsigned weights add too much, by pixel: their zero times the sum of the activations, negated."""
        sums = [Register() for _ in range(self.tile.pixels)]
        if self.weights.zero:
            factor = constant(-self.weights.zero * 0x10001)
            with rolled(self.segments) as segment:
                start = let(self.segment_start(segment))
                with rolled(self.segment_quads) as quad:
                    for pixel, total in enumerate(sums):
                        for pair in self._pairs(codes, start + quad * 2, pixel, 0):
                            total.value = smlad(pair, factor, total.value)
        return [total.value for total in sums]


def smlad(a: Expr, b: Expr, total: Expr) -> Expr:
    """`total` plus the products of the low and of the high halves."""
    return intrinsic("int32", "llvm.arm.smlad", a, b, total)


def tile_start(number: Expr, size: int, count: int) -> Expr:
    """First element of a tile; the last one overlaps its neighbour where `size` does not divide `count`."""
    start = number * size
    return let(start if count % size == 0 else minimum(start, count - size))
