"""Convolutions and fully connected layers on MVE: patches that lie in one run, multiplied by tiles of weights."""

from collections.abc import Iterable, Sequence

from qkd.graph import Conv2d, FullyConnected, QuantGraph, Value, accumulator_bound
from qkd.kernel import Kernel
from qkd.targets.kernels.armv8_1_m_mve_patches import Patches
from qkd.targets.kernels.armv8_1_m_mve_products import PassLayout, Read, multiply_pass, pack_passes, vectors_of
from qkd.targets.kernels.armv8_1_m_mve_results import Finish, finish_of, finish_quad, load_parameters, store_quad
from qkd.targets.kernels.armv8_1_m_mve_vectors import LANES, PRELUDE, QUAD, load_aligned
from qkd.targets.kernels.generic import make_kernel, window_of
from qkd.tir import Expr, Pointer, let, loop, minimum, shuffle

TILES = ((3, 2), (2, 2), (1, 4), (1, 2))
"""Pixels and channels of a pass; six sums take all the even core registers that loops leave."""


def candidates(graph: QuantGraph, op: Conv2d | FullyConnected) -> Iterable[Kernel]:
    """The kernel with packed weights, then the one with a byte a weight, where the factor of packing is not safe."""
    weight, entry = graph.values[op.weight], graph.values[op.input]
    bound = accumulator_bound(weight.codes, entry.qmin, entry.qmax)
    for bits in sorted({packed_bits(weight), 8}):
        finish = finish_of(op.epilogue, weight.shape[0], bound, 8 - bits)
        if finish is not None:
            yield _kernel(graph, op, bits, finish)


def packed_bits(weight: Value) -> int:
    """The fewest bits, of 2, 4 and 8, that hold every weight of a layer, whatever its format could hold."""
    low, high = weight.codes.min(), weight.codes.max()
    return next(b for b in (2, 4, 8) if -(1 << (b - 1)) <= low and high < 1 << (b - 1))


def _kernel(graph: QuantGraph, op: Conv2d | FullyConnected, bits: int, finish: Finish) -> Kernel:
    weight = graph.values[op.weight]
    channels = weight.shape[0]
    patches = Patches(window_of(graph, op), graph.values[op.input].qparams.zero_point)
    rows = patches.order(weight.codes.reshape(channels, *patches.window.kernel, -1))
    tile, width = min(TILES, key=lambda t: _instructions(patches.pixels, bits, *t))
    layout = PassLayout(bits, width, vectors_of(patches.taps))
    aligned = patches.window.channels % 4 == 0 and not (patches.direct and _is_callers(graph, op.input))

    def body(x: Pointer, weights: Pointer, table: Pointer, y: Pointer, strip: Pointer | None = None) -> None:
        codes = x if strip is None else strip
        if strip is not None:
            patches.begin(strip)
        with loop(patches.rows) as row:
            if strip is not None:
                patches.advance(x, strip, row)
            with loop(-(-patches.pixels // tile)) as number:
                # The last tile begins early enough to be whole, and computes some pixels a second time.
                first = let(minimum(number * tile, patches.pixels - tile))
                reads = [_reader(codes, let(patches.start(row, first + i)), aligned) for i in range(tile)]
                with loop(-(-channels // QUAD)) as quad:
                    sums = _quad(weights, quad, layout, reads)
                    parameters = load_parameters(table, quad, finish)
                    for i, acc in enumerate(sums):
                        at = (row * patches.pixels + first + i) * channels + quad * QUAD
                        store_quad(y, at, finish_quad(acc, parameters, finish), quad, channels)

    return make_kernel(
        graph, op, body, (pack_passes(rows, layout), finish.table), patches.scratch_bytes,
        variant=f"mve_w{bits}_{tile}x{width}", why=_why(bits), prelude=PRELUDE,
    )  # fmt: skip


def _is_callers(graph: QuantGraph, name: str) -> bool:
    """Whether an activation is a buffer of the caller, which need not be aligned as the arena is."""
    return graph.storage(name) in {graph.storage(other) for other in (*graph.inputs, *graph.outputs)}


def _instructions(pixels: int, bits: int, tile: int, width: int) -> float:
    """Loads and products for 16 codes of all pixels and one channel; infinite where a tile is larger than a row.

    Four channels of 2-bit weights at a time need more vectors than there are registers.
    """
    if pixels < tile or (bits == 2 and width == QUAD):
        return float("inf")
    return -(-pixels // tile) * (tile + width + tile * width) / width


def _reader(codes: Pointer, start: Expr, aligned: bool) -> Read:
    if aligned:
        return lambda k: load_aligned(codes, start + k)
    return lambda k: codes.load(start + k, LANES)


def _quad(weights: Pointer, quad: Expr, layout: PassLayout, reads: Sequence[Read]) -> list[Expr]:
    """Sums of four channels as a vector for each patch."""
    passes = QUAD // layout.width
    sums: list[list[Expr]] = []
    for part in range(passes):
        sums += multiply_pass(weights, let((quad * passes + part) * layout.size_bytes), layout, reads)
    return [let(shuffle([row[i] for row in sums], range(QUAD))) for i in range(len(reads))]


def _why(bits: int) -> str:
    if bits == 8:
        return "VMLADAVA multiplies 16 codes at a time; the accumulator's bound is below 2**31"
    return f"VMLADAVA multiplies 16 codes at a time; weights times {1 << (8 - bits)} keep the bound below 2**31"
