"""Layers with a codebook by the ordinary kernels: indices in flash become int8 codes in the scratch, once a call.

Any kernel of the same layer with plain 8-bit weights will do whose constant holds those bytes in some order. The order
is found by having the family lay out the positions of the weights instead of their codes, so no family knows of
codebooks; a kernel whose constant is anything else is not offered.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkd.graph import QuantGraph, Value, op_inputs
from qkd.header import ARENA_ALIGN
from qkd.kernel import Kernel
from qkd.packing import pack_rows
from qkd.target import InstructionSet, Target
from qkd.targets.kernels.candidate import Candidate, Offer
from qkd.targets.kernels.codebook_order import FILLED_UP, Order, order_of
from qkd.targets.kernels.generic import Weighted
from qkd.tir import Param, Pointer, let, loop, widen

CYCLES: Mapping[InstructionSet, float] = {
    "host": 1.6, "armv6-m": 5.5, "armv7e-m": 4.6, "armv8.1-m.mve": 3.6,
    "armv8.0-a": 3.3, "armv8.2-a.dotprod": 1.6, "armv8.6-a.i8mm": 1.6,
}  # fmt: skip
"""Of looking up one weight: estimates of counted code (`python -m benchmarks.codebook` counts it)."""
DIGIT = 127
"""Positions of weights are written in digits of this base, for they must lie in int8."""

PlainOffers = Callable[[QuantGraph], Iterable[Offer]]


@dataclass(frozen=True, eq=False)
class Stored:
    """A layer's weights as they lie in flash."""

    indices: NDArray[np.int8]
    """Packed, in the order of the kernel's bytes."""
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
    value = replace(weight, qmin=-DIGIT, qmax=DIGIT, data=codes.astype(np.int8), codebook=None)
    return replace(graph, values={**graph.values, weight.name: value})


def _probes(weight: Value) -> tuple[NDArray[np.int64], ...]:
    """Zeros, and three digits of each weight's position, of which the last is not 0: with that kernels fill up."""
    position = np.arange(weight.elements).reshape(weight.shape)
    return 0 * position, position // DIGIT**2, position // DIGIT % DIGIT, position % DIGIT + 1


def _same_layout(variant: str, probe: Mapping[str, Candidate]) -> Candidate | None:
    """The kernel of a probe, or the one that differs in the number of products which its smaller sums allow."""
    stem = re.sub(r"_\d+$", "", variant)
    alike = (candidate for name, candidate in probe.items() if re.sub(r"_\d+$", "", name) == stem)
    return probe.get(variant) or next(alike, None)


def _stored(weight: Value, kernel: Kernel, probes: list[Kernel]) -> Stored | None:
    """The indices in the order of a kernel's bytes; None where those are not the weights' codes in some order."""
    found = [np.asarray(k.constants[0]).reshape(-1).view(np.int8) for k in (kernel, *probes)]
    if len({len(codes) for codes in found}) > 1:
        return None
    codes, zero, *digits = found
    high, middle, low = ((digit - zero).astype(np.int64) for digit in digits)  # some kernels store codes plus 128
    source = np.where(low == 0, FILLED_UP, (high * DIGIT + middle) * DIGIT + low - 1)
    if source.min() < FILLED_UP or source.max() >= weight.elements:
        return None
    levels = np.atleast_2d(weight.codebook if weight.codebook is not None else ())
    if (low == 0).any():
        levels = np.pad(levels, ((0, 0), (0, 1)))
    order, count = order_of(source, weight, len(levels)), levels.shape[1]
    if order is None:
        return None
    index = np.append(weight.stored.reshape(-1), count - 1)[source]  # what is filled up takes the last level
    levels = levels + zero[0]
    if not np.array_equal(levels[order.rows(), index], codes):
        return None
    bits = next(bits for bits in (2, 4, 8) if count <= 2**bits and order.run % (8 // bits) == 0)
    return Stored(pack_rows(index[None], bits).view(np.int8), bits, levels, order)


def _looking_up(kernel: Kernel, stored: Stored, inputs: int) -> Kernel:
    """The kernel with its first constant in the scratch, where it is looked up first; its own scratch lies behind."""
    plain, *others = kernel.build.params[inputs:]
    own = kernel.scratch_bytes
    plain_bytes = kernel.constants[0].nbytes
    start = -(-plain_bytes // ARENA_ALIGN) * ARENA_ALIGN
    scratch_bytes = start + own if own else plain_bytes

    def body(*pointers: Pointer) -> None:
        entries, (indices, levels, *rest), scratch = pointers[:inputs], pointers[inputs:-1], pointers[-1]
        weights = scratch.part(0, "int8", plain_bytes)
        _look_up(stored, indices, levels, weights)
        behind = (scratch.part(start, "int8", own),) if own else ()
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
    order, bits, per_byte = stored.order, stored.bits, 8 // stored.bits
    columns = stored.levels.shape[1]
    with loop(order.tiles) as tile, loop(order.repeats) as repeat, loop(order.channels) as channel:
        row = let(order.row(tile, channel) * columns)
        run = let(((tile * order.repeats + repeat) * order.channels + channel) * (order.run // per_byte))
        with loop(order.run // per_byte) as number:
            byte = let(widen(indices[run + number]))
            for field in range(per_byte):
                index = byte >> (bits * field) & (2**bits - 1)
                weights[(run + number) * per_byte + field] = levels[row + index]
