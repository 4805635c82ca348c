"""Layers with a codebook by the ordinary kernels: indices in flash become int8 codes in the scratch, once a call.

Any kernel of the same layer with plain 8-bit weights will do whose constant holds those bytes in some order. The order
is found by having the family lay out the positions of the weights instead of their codes, so the ordinary families know
nothing of codebooks; a kernel whose constant is anything else is not offered.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import QuantGraph, Value, op_inputs
from qkd.graph.packing import pack_rows
from qkd.graph.steps import ARENA_ALIGN
from qkd.target import InstructionSet, Target
from qkd.targets.kernels.candidate import Candidate, Offer
from qkd.targets.kernels.codebook_order import FILLED_UP, Order, order_of
from qkd.targets.kernels.window import Weighted
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Param, Pointer, let, loop, widen

CYCLES: Mapping[InstructionSet, float] = {
    "host": 1.6, "armv6-m": 5.5, "armv7e-m": 4.6, "armv8.1-m.mve": 3.6,
    "armv8.0-a": 3.3, "armv8.2-a.dotprod": 1.6, "armv8.6-a.i8mm": 1.6,
}  # fmt: skip
"""Of looking up one weight: estimated for counted code, as the difference to the same kernel with plain weights."""
BASE, DIGITS = 11, 6
"""Positions are written in digits of a small base: families prove the sums of what they lay out, as those of codes."""

PlainOffers = Callable[[QuantGraph], Iterable[Offer]]


@dataclass(frozen=True, eq=False)
class Stored:
    """A layer's weights as they lie in flash."""

    indices: NDArray[np.int8]
    """(runs, bytes of a run), packed, in the order of the kernel's bytes."""
    bits: int
    levels: NDArray[np.int8]
    """(1, L), or (O, L) with a row for each output channel."""
    order: Order
    """Which row each byte belongs to."""


def candidates(graph: QuantGraph, op: Weighted, target: Target, offers: PlainOffers) -> Iterator[Candidate]:
    """The fastest kernel that `offers` has for the layer with plain weights and that can be fed from a codebook."""
    weight = graph.values[op.weight]
    plain, *probes = (
        {offer.variant: offer for offer in offers(_with_codes(graph, weight, codes)) if isinstance(offer, Candidate)}
        for codes in (weight.codes, *_probes(weight))
    )
    for candidate in sorted(plain.values(), key=lambda candidate: candidate.cycles):
        probed = [found.make() for probe in probes if (found := _same_layout(candidate.variant, probe)) is not None]
        kernel = candidate.make()
        if len(probed) == len(probes) and (stored := _stored(weight, kernel, probed)) is not None:
            cycles = candidate.cycles + round(CYCLES[target.instruction_set] * weight.elements)
            yield Candidate.of(_looking_up(kernel, stored, len(op_inputs(op))), cycles)
            return


def _with_codes(graph: QuantGraph, weight: Value, codes: NDArray[np.int64]) -> QuantGraph:
    """The graph with plain 8-bit codes in place of a weight and its codebook."""
    value = replace(weight.without_codebook(), qmin=-127, qmax=127, data=codes.astype(np.int8))
    return replace(graph, values={**graph.values, weight.name: value})


def _probes(weight: Value) -> tuple[NDArray[np.int64], ...]:
    """Zeros, and the digits of each weight's position plus one: 0 is what kernels fill up with."""
    place = np.arange(1, weight.elements + 1).reshape(weight.shape)
    return 0 * place, *(place // BASE**digit % BASE for digit in range(DIGITS))


def _same_layout(variant: str, probe: Mapping[str, Candidate]) -> Candidate | None:
    """The kernel of a probe, or one that only adds more products at once, as smaller sums allow."""

    def stem(name: str) -> str:
        return re.sub(r"_(\d+|int16|int32)$", "", name)

    alike = (candidate for name, candidate in probe.items() if stem(name) == stem(variant))
    return probe.get(variant) or next(alike, None)


def _stored(weight: Value, kernel: Kernel, probes: Sequence[Kernel]) -> Stored | None:
    """The indices in the order of a kernel's bytes; None where those are not the weights' codes in some order."""
    codes, zero, *digits = (np.asarray(k.constants[0]).reshape(-1).view(np.int8) for k in (kernel, *probes))
    if weight.codebook is None or len({len(laid_out) for laid_out in (codes, zero, *digits)}) > 1:
        return None
    from_zero = np.stack([digit - zero for digit in digits])  # some kernels store codes plus 128
    source = BASE ** np.arange(DIGITS) @ from_zero.astype(np.int64) - 1
    if source.min() < FILLED_UP or source.max() >= weight.elements:
        return None
    levels = np.atleast_2d(weight.codebook)
    if (order := order_of(source, weight, len(levels))) is None:
        return None
    filled = source == FILLED_UP
    if filled.any() and not (levels == 0).any(axis=1).all():
        levels = np.pad(levels, ((0, 0), (0, 1)))
    rows = order.rows()
    index = np.where(filled, (levels == 0).argmax(axis=1)[rows], weight.stored.reshape(-1)[source])
    levels = levels + zero[0]
    if not np.array_equal(levels[rows, index], codes):
        return None
    bits = next(bits for bits in (2, 4, 8) if levels.shape[1] <= 2**bits)
    return Stored(pack_rows(index.reshape(-1, order.run), bits).view(np.int8), bits, levels, order)


def _looking_up(kernel: Kernel, stored: Stored, inputs: int) -> Kernel:
    """The kernel with its first constant in the scratch, where it is looked up first; its own scratch lies behind."""
    plain, *others = kernel.build.params[inputs:]
    own = kernel.scratch_bytes
    plain_bytes = stored.order.bytes_written(stored.indices.shape[1] * 8 // stored.bits)
    start = -(-plain_bytes // ARENA_ALIGN) * ARENA_ALIGN
    scratch_bytes = start + own if own else plain_bytes

    def body(*pointers: Pointer) -> None:
        entries, (indices, levels, *rest), scratch = pointers[:inputs], pointers[inputs:-1], pointers[-1]
        weights = scratch.part(0, plain_bytes)
        _look_up(stored, indices, levels, weights)
        behind = (scratch.part(start, own),) if own else ()
        kernel.build.body(*entries, weights.view(plain.dtype), *rest, *behind)

    constants = (stored.indices, stored.levels, *kernel.constants[1:])
    added = [Param("indices", "int8", stored.indices.size), Param("levels", "int8", stored.levels.size)]
    rest = others[:-1] if own else others
    params = (*kernel.build.params[:inputs], *added, *rest, Param("scratch", "int8", scratch_bytes))
    why = f"{stored.bits}-bit indices are looked up in a table of {stored.levels.size} codes first; {kernel.why}"
    return replace(
        kernel, variant=f"codebook_{kernel.variant}", build=replace(kernel.build, params=params, body=body),
        constants=constants, scratch_bytes=scratch_bytes, why=why,
    )  # fmt: skip


def _look_up(stored: Stored, indices: Pointer, levels: Pointer, weights: Pointer) -> None:
    """Write all weights; what a run's last byte holds too much is overwritten by the next run."""
    order, bits, (_, run_bytes) = stored.order, stored.bits, stored.indices.shape
    with loop(order.tiles) as tile, loop(order.repeats) as repeat, loop(order.channels) as channel:
        row = let(order.row(tile, channel) * stored.levels.shape[1])
        run = let((tile * order.repeats + repeat) * order.channels + channel)
        with loop(run_bytes) as number:
            byte = let(widen(indices[run * run_bytes + number]))
            for field in range(8 // bits):
                index = byte >> (bits * field) & (2**bits - 1)
                weights[run * order.run + number * (8 // bits) + field] = levels[row + index]
