"""Fully connected layers on Armv6-M: codes become words once, tiles of channels meet them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import BiasAdd
from qkd.graph.graph import FullyConnected, QuantGraph, Value
from qkd.targets.kernels.armv6_m.assembly import HALF
from qkd.targets.kernels.armv6_m.connected_ir import TAPS, Tile, dot_ir
from qkd.targets.kernels.armv6_m.convolution import fits_half
from qkd.targets.kernels.armv6_m.requantize import DigitRequantize, accumulator_range, digit_requantize
from qkd.targets.kernels.armv6_m.rows_body import PRELUDE, subtract
from qkd.targets.kernels.bounds import beyond
from qkd.targets.kernels.candidate import Candidate, Offer, Refused
from qkd.targets.kernels.epilogue import align, channel_table
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import rolled, tile_start, tile_starts
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Expr, Pointer, Register, call, cast, constant, evaluate, let, widen

SUMS = (4, 5, 3, 2, 1)


@dataclass(frozen=True)
class Plan:
    """One way to compute a layer."""

    tile: Tile
    inputs: int
    outputs: int
    chunks: int
    """Parts of the inputs, each short enough for paired sums to fit int16."""
    wide: bool
    """Paired sums of all inputs need int32."""

    @property
    def variant(self) -> str:
        """Name for the report."""
        size = "int32" if self.wide or not self.tile.paired else "int16"
        return f"dot_w{self.tile.bits}_{self.tile.channels}_{size}"

    @property
    def padded_inputs(self) -> int:
        """Inputs filled up to whole blocks in every part."""
        return -(-self.inputs // (TAPS * self.chunks)) * TAPS * self.chunks

    @property
    def part(self) -> int:
        """Inputs of a part."""
        return self.padded_inputs // self.chunks

    @property
    def sum_words(self) -> int:
        """Words of the sums of a tile."""
        return self.tile.sums * (2 if self.wide else 1)

    @property
    def scratch_words(self) -> int:
        """The codes as words, where each part starts, the sums."""
        return self.padded_inputs + self.chunks * self.tile.sums + self.sum_words

    @property
    def packed_bytes(self) -> int:
        """Weights in flash."""
        return -(-self.outputs // self.tile.channels) * self.padded_inputs // TAPS * self.tile.block_bytes

    @property
    def cycles(self) -> int:
        """Estimate, as in `armv6_m_cost`."""
        t = self.tile
        block = 5 + 4 + t.sums * TAPS * 4 + (2 * t.sums * t.bits // 8 if t.paired else 1)
        tiles = -(-self.outputs // t.channels)
        return tiles * (self.chunks * 70 + self.padded_inputs // TAPS * block + 30 * t.channels) + 9 * self.inputs


def packed_tiles(codes: NDArray[np.int64], plan: Plan) -> NDArray[np.int8]:
    """Weights (O, K) as the loop reads them: tile, four inputs, sum, and bytes or words of two to four channels."""
    t, count = plan.tile, plan.tile.channels
    filled = np.pad(codes, ((0, 0), (0, plan.padded_inputs - plan.inputs))) + t.zero
    tiles = np.array([filled[start : start + count] for start in tile_starts(plan.outputs, count)])
    blocks = tiles.reshape(len(tiles), count, -1, TAPS).transpose(0, 2, 1, 3)  # tile, block, channel, tap
    if not t.paired:
        return blocks.astype(np.uint8).view(np.int8).ravel()
    pairs = blocks.reshape(*blocks.shape[:2], t.sums, 2, TAPS)
    fields = (pairs[..., 0, :] | pairs[..., 1, :] << 16) << t.bits * np.arange(TAPS)
    per_word = 4 // t.bits
    words = fields.sum(axis=-1).reshape(*blocks.shape[:2], t.sums // per_word, per_word)
    words = (words << TAPS * t.bits * np.arange(per_word)).sum(axis=-1)
    return np.ascontiguousarray(words.astype(np.uint32)).view(np.int8).ravel()


def candidates(graph: QuantGraph, op: FullyConnected) -> Iterator[Offer]:
    """Every plan of a layer, safe or refused."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    steps = None
    if not isinstance(op.epilogue, BiasAdd):
        steps = digit_requantize(op.epilogue, *accumulator_range(weight.codes, entry.qmin, entry.qmax))
        if steps is None:
            yield Refused("dot", "no digits of the multiplier give every code")
            return
    for sums, bits in itertools.product(SUMS, sorted({weight.bits, 8})):
        plan = _plan(weight, entry, Tile(bits, sums))
        if isinstance(plan, Plan):
            yield _candidate(graph, op, plan, steps)
        elif plan is not None:
            yield plan


def _plan(weight: Value, entry: Value, tile: Tile) -> Plan | Refused | None:
    outputs, inputs = weight.shape
    whole = tile.bits == 8 or (tile.sums <= 4 and tile.sums * tile.bits % 4 == 0)
    if not whole or tile.channels > outputs:
        return None
    if not tile.paired:
        return Plan(tile, inputs, outputs, 1, False)
    for chunks in range(1, -(-inputs // TAPS) + 1):
        plan = Plan(tile, inputs, outputs, chunks, chunks > 1)
        filled = np.pad(weight.codes, ((0, 0), (0, plan.padded_inputs - inputs)))
        if fits_half(filled.reshape(-1, plan.part), entry):
            return plan
    return Refused(f"dot_w{tile.bits}_{tile.channels}", beyond(filled.reshape(-1, TAPS), entry, 0, 15))


def _candidate(graph: QuantGraph, op: FullyConnected, plan: Plan, steps: DigitRequantize | None) -> Candidate:
    sums = f"sums fit int16 in each of {plan.chunks} parts" if plan.tile.paired else "sums fit int32"
    table = channel_table(op.epilogue) if steps is None else steps.table
    return Candidate(plan.variant, plan.cycles, plan.packed_bytes + table.nbytes, 4 * plan.scratch_words,
                     lambda: _kernel(graph, op, plan, steps, sums))  # fmt: skip


def _kernel(graph: QuantGraph, op: FullyConnected, plan: Plan, steps: DigitRequantize | None, why: str) -> Kernel:
    packed = packed_tiles(graph.values[op.weight].codes, plan)
    table = channel_table(op.epilogue) if steps is None else steps.table
    tile, result = plan.tile, graph.values[op.output].dtype
    starts, sums = plan.padded_inputs, plan.padded_inputs + plan.chunks * plan.tile.sums

    def body(x: Pointer, weights: Pointer, constants: Pointer, y: Pointer, scratch: Pointer) -> None:
        words = scratch.view("int32")
        _expand(x, words, plan)
        tile_bytes = plan.padded_inputs // TAPS * tile.block_bytes
        with rolled(-(-plan.outputs // tile.channels)) as number:
            for i in range(plan.sum_words):
                words[sums + i] = constant(0)
            with rolled(plan.chunks) as chunk:
                part = number * tile_bytes + chunk * (tile_bytes // plan.chunks)
                start = words.address(chunk * tile.sums + starts)
                places = words.address(sums), words.address(chunk * plan.part), weights.address(part), start
                evaluate(call("int32", "armv6_m_dot", *places))
            first = tile_start(number, tile.channels, plan.outputs)
            for i, total in enumerate(_totals(words, plan, sums)):
                y[first + i] = cast(_finish(op, steps, total, constants, first + i), result)

    return make_kernel(graph, op, body, (packed, table), 4 * plan.scratch_words, variant=plan.variant, why=why,
                       prelude=PRELUDE + dot_ir("armv6_m_dot", tile, plan.part, plan.wide))  # fmt: skip


def _expand(x: Pointer, words: Pointer, plan: Plan) -> None:
    """Write the codes as words, and where sums start: minus what the zero of the unsigned weights adds."""
    tile, starts = plan.tile, plan.padded_inputs
    with rolled(plan.inputs) as i:
        words[i] = widen(x[i])
    for rest in range(plan.inputs, plan.padded_inputs):
        words[rest] = 0
    with rolled(plan.chunks) as chunk:
        total = Register()
        with rolled(plan.part) as place:
            total.value = total.value + words[chunk * plan.part + place]
        added = let(total.value * tile.zero)
        both = subtract(subtract(constant(HALF if plan.wide else 0), added), added << 16) if tile.paired else -added
        start = let(both)
        for number in range(tile.sums):
            words[chunk * tile.sums + (starts + number)] = start


def _totals(words: Pointer, plan: Plan, sums: int) -> list[Expr]:
    """The accumulators of a tile, by channel."""
    n, totals = plan.tile.sums, []
    for i in range(n):
        word = let(words[sums + i])
        if not plan.tile.paired:
            totals.append(word)
        elif plan.wide:
            high = let(words[sums + n + i])
            totals += [let(subtract(subtract(word, high << 16), constant(plan.chunks * HALF))), high]
        else:
            low = let(word << 16 >> 16)
            totals += [low, let(subtract(word, low) >> 16)]
    return totals


def _finish(op: FullyConnected, steps: DigitRequantize | None, total: Expr, table: Pointer, channel: Expr) -> Expr:
    if steps is None:  # logits
        return align(total, op.epilogue.pre_shift) + table[channel]
    return steps.write(total, steps.constants(table, channel))
