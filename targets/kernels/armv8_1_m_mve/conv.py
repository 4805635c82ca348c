"""Convolutions and fully connected layers on MVE: patches that lie in one run, multiplied by tiles of weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qkd.graph.graph import Conv2d, Conv2dAdd, FullyConnected, QuantGraph, Value, accumulator_bound
from qkd.targets.kernels.armv8_1_m_mve.cost import conv_cycles, row_add_cycles, trits_cycles
from qkd.targets.kernels.armv8_1_m_mve.patches import Patches
from qkd.targets.kernels.armv8_1_m_mve.products import PassLayout, Read, multiply_pass, pack_passes, vectors_of
from qkd.targets.kernels.armv8_1_m_mve.residual import addend_of, row_add
from qkd.targets.kernels.armv8_1_m_mve.results import (
    Finish,
    finish_of,
    finish_quad,
    load_parameters,
    store_quad,
    unsafe_finish,
)
from qkd.targets.kernels.armv8_1_m_mve.trits import Trits
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, PRELUDE, QUAD, load_aligned
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.make import make_kernel, variant_name
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, let, loop, minimum, shuffle

TILES = ((3, 2), (2, 2))
"""Pixels and channels of a pass; six sums take all the even core registers that loops leave."""
SINGLE_TILES = ((1, 4), (1, 2))
"""The same for a layer of one pixel in a row."""


Weighted: TypeAlias = Conv2d | Conv2dAdd | FullyConnected

EXPANSION_CODE_BYTES = 132
"""Size of the instructions that expand trits: a layer must save more flash than that."""

EXPANSION_PIXELS = 32
"""With so many pixels a layer multiplies each weight so often that expanding it costs less than a tenth of that."""


def candidates(graph: QuantGraph, op: Weighted) -> Iterator[Offer]:
    """Weights at 1.6 bits, packed and a byte each, in each shape of pass, where the factor of packing is safe."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    bound = accumulator_bound(weight.codes, entry.qmin, entry.qmax)
    for bits in sorted({packed_bits(weight), 8}):
        finish = finish_of(op.epilogue, weight.shape[0], bound, 8 - bits)
        if finish is None:
            yield Refused(f"mve_w{bits}", unsafe_finish(op.epilogue, bound, 8 - bits))
            continue
        for product in _products(graph, op, bits):
            if weight.codes.min() >= -1 and product.trits_pay:
                yield _candidate(graph, op, product, finish, product.trits)
            yield _candidate(graph, op, product, finish, None)


def packed_bits(weight: Value) -> int:
    """The fewest bits, of 2, 4 and 8, that hold every weight of a layer, whatever its format could hold."""
    low, high = weight.codes.min(), weight.codes.max()
    return next(b for b in (2, 4, 8) if -(1 << (b - 1)) <= low and high < 1 << (b - 1))


@dataclass(frozen=True)
class Product:
    """How a layer is computed: its patches, the pixels of a pass and the weights of a pass."""

    patches: Patches
    channels: int
    tile: int
    layout: PassLayout

    def variant(self, trits: Trits | None) -> str:
        """How weights lie in flash, then pixels and channels of a pass."""
        return f"mve_{'ternary' if trits else f'w{self.layout.bits}'}_{self.tile}x{self.layout.width}"

    @property
    def row_codes(self) -> int:
        """Results of a row that is visited."""
        return self.patches.pixels * self.channels

    @property
    def weight_bytes(self) -> int:
        """The weights of all passes."""
        return -(-self.channels // QUAD) * QUAD // self.layout.width * self.layout.size_bytes

    @property
    def trits(self) -> Trits:
        """The weights of all passes, expanded behind the strip."""
        return Trits(self.weight_bytes, self.patches.scratch_bytes)

    @property
    def trits_pay(self) -> bool:
        """Whether 1.6 bits a weight save more flash than their code takes, and cost little time."""
        saved = self.trits.expanded_bytes - self.trits.packed_bytes
        often = self.patches.rows * self.patches.pixels >= EXPANSION_PIXELS
        return self.layout.bits == 2 and often and saved > EXPANSION_CODE_BYTES


def _products(graph: QuantGraph, op: Weighted, bits: int) -> Iterator[Product]:
    patches = Patches(window_of(graph, op), graph.values[op.input].qparams.zero_point, isinstance(op, Conv2dAdd))
    channels = graph.values[op.weight].shape[0]
    if patches.by_row and patches.pixels * channels < LANES:
        return
    for tile, width in TILES if patches.pixels > 1 else SINGLE_TILES:
        # Four channels of 2-bit weights at a time need more vectors than there are registers.
        if tile <= patches.pixels and not (bits == 2 and width == QUAD):
            yield Product(patches, channels, tile, PassLayout(bits, width, vectors_of(patches.taps)))


def _candidate(graph: QuantGraph, op: Weighted, product: Product, finish: Finish, trits: Trits | None) -> Candidate:
    cycles = conv_cycles(product.patches, product.channels, product.layout.bits, product.tile, product.layout.width)
    flash_bytes, scratch_bytes = finish.table.nbytes + product.weight_bytes, product.patches.scratch_bytes
    if trits:
        cycles += trits_cycles(trits.expanded_bytes)
        flash_bytes += trits.packed_bytes + EXPANSION_CODE_BYTES - product.weight_bytes
        scratch_bytes = trits.scratch_bytes
    if isinstance(op, Conv2dAdd):
        cycles += row_add_cycles(graph.values[op.output].elements)
        scratch_bytes += product.row_codes
    return Candidate(variant_name(op, product.variant(trits)), cycles, flash_bytes, scratch_bytes,
                     lambda: _kernel(graph, op, product, finish, trits))  # fmt: skip


def _kernel(graph: QuantGraph, op: Weighted, product: Product, finish: Finish, trits: Trits | None) -> Kernel:
    patches, channels, tile = product.patches, product.channels, product.tile
    rows = patches.order(graph.values[op.weight].codes.reshape(channels, *patches.window.kernel, -1))
    passes = pack_passes(rows, product.layout)
    aligned = patches.window.channels % 4 == 0 and not (patches.direct and _is_callers(graph, op.input))

    conv_bytes = trits.scratch_bytes if trits else patches.scratch_bytes
    residual = row_add(op, product.row_codes, conv_bytes)

    def body(x: Pointer, *pointers: Pointer) -> None:
        addend, (weights, table, y, *rest) = addend_of(op, pointers, output=2)
        scratch = rest[0] if rest else None
        strip = None if patches.direct else scratch
        codes = x if strip is None else strip
        first_byte = 0
        if trits is not None and scratch is not None:
            trits.expand(weights, scratch)
            weights, first_byte = scratch, trits.first_byte
        if strip is not None:
            patches.begin(strip)
        with loop(patches.rows) as row:
            if residual and addend and scratch:
                residual.keep(addend, scratch, row)
            if strip is not None:
                patches.advance(x, strip, row)
            with loop(-(-patches.pixels // tile)) as number:
                # The last tile begins early enough to be whole, and computes some pixels a second time.
                first = let(minimum(number * tile, patches.pixels - tile))
                reads = [_reader(codes, let(patches.start(row, first + i)), aligned) for i in range(tile)]
                with loop(-(-channels // QUAD)) as quad:
                    sums = _quad(weights, first_byte, quad, product.layout, reads)
                    parameters = load_parameters(table, quad, finish)
                    for i, acc in enumerate(sums):
                        at = (row * patches.pixels + first + i) * channels + quad * QUAD
                        store_quad(y, at, finish_quad(acc, parameters, finish), quad, channels)
            if residual and scratch:
                residual.add(y, scratch, row)

    bits = product.layout.bits
    return make_kernel(
        graph, op, body, (trits.pack(passes) if trits else passes, finish.table),
        residual.scratch_bytes if residual else conv_bytes, in_place=residual is not None, alias_hidden=True,
        variant=product.variant(trits), why=_why(bits, trits), prelude=PRELUDE,
    )  # fmt: skip


def _is_callers(graph: QuantGraph, name: str) -> bool:
    """Whether an activation is a buffer of the caller, which need not be aligned as the arena is."""
    return graph.storage(name) in {graph.storage(other) for other in (*graph.inputs, *graph.outputs)}


def _reader(codes: Pointer, start: Expr, aligned: bool) -> Read:
    if aligned:
        return lambda k: load_aligned(codes, start + k)
    return lambda k: codes.load(start + k, LANES)


def _quad(
    weights: Pointer, first_byte: int, quad: Expr, layout: PassLayout, reads: Sequence[Read]
) -> list[Expr]:  # fmt: skip
    """Sums of four channels as a vector for each patch."""
    passes = QUAD // layout.width
    sums: list[list[Expr]] = []
    for part in range(passes):
        start = let((quad * passes + part) * layout.size_bytes + first_byte)
        sums += multiply_pass(weights, start, layout, reads)
    return [let(shuffle([row[i] for row in sums], range(QUAD))) for i in range(len(reads))]


def _why(bits: int, trits: Trits | None) -> str:
    dot = "VMLADAVA multiplies 16 codes at a time"
    if bits == 8:
        return f"{dot}; the accumulator's bound is below 2**31"
    safe = f"{dot}; weights times {1 << (8 - bits)} keep the bound below 2**31"
    if trits is None:
        return safe
    saved = trits.expanded_bytes - trits.packed_bytes
    return f"{safe}; 1.6 bits a weight save {saved:,} bytes of flash and are expanded to 2 bits in scratch once a call"
