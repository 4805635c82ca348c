"""Products of weight rows and patches by VMLADAVA on MVE: how weights are packed, and the tile that multiplies them.

A pass multiplies `width` channels with a few patches, 16 codes at a time, each product sum in a core register.
Weights of 4 and 2 bits stay at the top of their byte (one shift, one AND): sums come out 16 or 64 times too large,
which `rescale` folds into the requantize.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, QUAD, dot, load_aligned, trip_count
from qkd.tir.tir import Expr, Operand, Pointer, Register, constant, let, loop

UNROLLED_BLOCKS = 4
"""Up to so many blocks a pass has no loop: fewer instructions, and still little code."""

ROLLED_VECTORS = 2
"""Vectors of codes that a turn of a loop multiplies at least."""

Read = Callable[[Operand], Expr]
"""Gives the 16 codes of a patch from position k on."""


@dataclass(frozen=True)
class PassLayout:
    """Weights of one pass: first `blocks` blocks of `width` vectors whose bytes hold a code in each field, then a tail.

    Field f of byte j of a block's vector is the code at k = (block * fields + f) * 16 + j. The tail packs what is left
    of all channels of the pass side by side into the fields of as few vectors as possible.
    """

    bits: int
    width: int
    vectors: int
    """Vectors of 16 codes in a patch."""

    @property
    def fields(self) -> int:
        """Codes in a byte."""
        return 8 // self.bits

    @property
    def blocks(self) -> int:
        """Vectors of full bytes for each channel."""
        return self.vectors // self.fields

    @property
    def left(self) -> int:
        """Vectors of codes that do not fill a block."""
        return self.vectors % self.fields

    @property
    def size_bytes(self) -> int:
        """Packed bytes of a pass."""
        return (self.blocks * self.width + -(-self.left * self.width // self.fields)) * LANES


def vectors_of(taps: int) -> int:
    """Vectors of 16 codes that hold `taps` codes."""
    return -(-taps // LANES)


def pack_passes(rows_OK: NDArray[np.int64], layout: PassLayout) -> NDArray[np.int8]:
    """Pack weight rows for `multiply_pass`: int64 (O, K) → int8 (passes, bytes), padded with zeros."""
    channels = -(-len(rows_OK) // QUAD) * QUAD
    padded = np.zeros((channels, layout.vectors * LANES), np.int64)
    padded[: len(rows_OK), : rows_OK.shape[1]] = rows_OK
    passes = padded.reshape(-1, layout.width, layout.vectors, LANES)
    full = layout.blocks * layout.fields
    body = passes[:, :, :full].reshape(len(passes), layout.width, layout.blocks, layout.fields, LANES)
    body = _join_fields(body.transpose(0, 2, 1, 3, 4), layout.bits)
    left = passes[:, :, full:].transpose(0, 2, 1, 3).reshape(len(passes), -1, LANES)
    left = np.pad(left, ((0, 0), (0, -left.shape[1] % layout.fields), (0, 0)))
    tail = _join_fields(left.reshape(len(passes), -1, layout.fields, LANES), layout.bits)
    flat = [part.reshape(len(passes), -1) for part in (body, tail)]
    return np.concatenate(flat, axis=1).astype(np.uint8).view(np.int8)


def multiply_pass(weights: Pointer, start: Expr, layout: PassLayout, patches: Sequence[Read]) -> list[list[Expr]]:
    """Multiply one pass with each patch and return the sums, times `2**(8 - bits)`, as [channel][patch].

    Parameters
    ----------
    weights : Pointer to int8
        What `pack_passes` made.
    start : Expr of int32
        Index of the pass's first byte.
    layout : PassLayout
    patches : sequence of Read
    """
    sums = [[Register() for _ in patches] for _ in range(layout.width)]
    step = max(1, ROLLED_VECTORS // layout.fields)
    # The blocks before the loop start the sums, which saves clearing them; packed blocks are too long for it to pay.
    ahead = (layout.blocks - 1) % step + 1 if step > 1 else 0
    if layout.blocks <= UNROLLED_BLOCKS:
        ahead = layout.blocks
    for number in range(ahead):
        _accumulate(sums, _block_codes(weights, start, layout, constant(number)), patches)
    if layout.blocks > ahead:
        with loop(trip_count((layout.blocks - ahead) // step)) as turn:
            for number in range(ahead, ahead + step):
                _accumulate(sums, _block_codes(weights, start, layout, turn * step + number), patches)
    _accumulate(sums, pass_codes(weights, start, layout, layout.blocks), patches)
    return [[register.value for register in row] for row in sums]


def pass_codes(
    weights: Pointer, start: Expr, layout: PassLayout, first_block: int = 0
) -> Iterator[tuple[Operand, list[Expr]]]:
    """Load a pass from a block on: for each k, a multiple of 16, the 16 codes of each channel at the top of bytes."""
    for number in range(first_block, layout.blocks):
        yield from _block_codes(weights, start, layout, constant(number))
    tail = start + layout.blocks * layout.width * LANES
    places = layout.left * layout.width
    words = [load_aligned(weights, tail + i * LANES) for i in range(-(-places // layout.fields))]
    for number in range(layout.left):
        row = [divmod(number * layout.width + channel, layout.fields) for channel in range(layout.width)]
        k = (layout.blocks * layout.fields + number) * LANES
        yield k, [_field(words[word], field, layout.bits) for word, field in row]


def _block_codes(
    weights: Pointer, start: Expr, layout: PassLayout, number: Expr
) -> Iterator[tuple[Operand, list[Expr]]]:
    first = start + number * (layout.width * LANES)
    words = [load_aligned(weights, first + channel * LANES) for channel in range(layout.width)]
    for field in range(layout.fields):
        k = (number * layout.fields + field) * LANES
        yield k, [_field(word, field, layout.bits) for word in words]


def _accumulate(
    sums: list[list[Register]], weights: Iterable[tuple[Operand, list[Expr]]], patches: Sequence[Read]
) -> None:
    for k, codes_of_channels in weights:
        for column, read in enumerate(patches):
            codes = let(read(k))
            for row, weight in zip(sums, codes_of_channels, strict=True):
                row[column].value = dot(row[column].value, codes, weight)


def _field(word: Expr, field: int, bits: int) -> Expr:
    """One code of each byte, at the top of the byte."""
    shifted = word << (8 - bits * (field + 1))
    return let(shifted & -(1 << (8 - bits)) if field else shifted)


def _join_fields(codes: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """(..., fields, 16) codes → (..., 16) bytes."""
    shifts = bits * np.arange(codes.shape[-2])[:, None]
    return np.asarray(((codes & ((1 << bits) - 1)) << shifts).sum(axis=-2))
