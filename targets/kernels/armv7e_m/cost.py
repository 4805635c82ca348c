"""Estimated cycles of the templates on a Cortex-M4 without wait states, to choose between them.

Costs by class: arithmetic 1; n loads in a row 1 + n; a store 1; a taken branch 2. What stands around the inner loops is
a number of cycles fitted to `targets.cycle_model` on the emulator. Only the order of the estimates matters.
"""

from qkd.graph.graph import Conv2dAdd, Op, QuantGraph
from qkd.targets.kernels.armv7e_m.activations import Columns, Rows
from qkd.targets.kernels.armv7e_m.gemm import Product
from qkd.targets.kernels.armv7e_m.lookup_geometry import LANES, TILE_CHANNELS, Lookup
from qkd.targets.kernels.armv7e_m.shared_lanes import SharedLanes
from qkd.targets.kernels.rates import Rate
from qkd.targets.kernels.window import Window

BRANCH = 2
SEGMENT = 34
"""Cycles around an inner loop: pointers, sums from and to memory."""
OUTPUT = 5
"""Cycles of the epilogue for one output."""
SPLIT = 6
"""Cycles to take a lower sum out of an accumulator."""
EXPAND_QUAD = 7
GATHER_ROW = 12
GATHER_PIXEL = 20
COPY_BYTE = 12
"""Cycles a byte of the padded copy takes: filled, then copied."""

DEPTHWISE_PAIRS, DEPTHWISE = Rate(mac=3.54), Rate(mac=4.44)
ADD = Rate(output=10)
ADD_TO_OUTPUT = 8
"""Cycles to add the residual to an output that is in a register."""
POOL = Rate(mac=2)


def smlad_cycles(product: Product, activations: Rows | Columns, window: Window, channels: int) -> int:
    """Cycles of a layer by `Product`, its activations included."""
    tile, pixels = product.tile, window.out_height * window.out_width
    columns = isinstance(activations, Columns)
    across = pixels if columns else window.out_width
    tiles = -(-across // tile.pixels) * (1 if columns else window.out_height) * -(-channels // tile.channels)
    runs = product.segments * product.parts
    split = SPLIT * tile.pixels * product.columns if isinstance(product.weights, SharedLanes) else 0
    inner = runs * (SEGMENT + product.turns * _turn(product) + split)
    outputs = tile.pixels * tile.channels * OUTPUT
    return tiles * (inner + outputs) + _expand(product, activations, window) + _correct(product, tiles, channels)


def _turn(product: Product) -> int:
    tile = product.tile
    pairs = 2 * product.columns * tile.quads
    words = pairs // product.weights.pairs_per_word
    loads = tile.quads * (1 + 2 * tile.pixels) + 2 * words - min(words, tile.quads)  # a word behind codes costs 1
    return loads + pairs * (1 + tile.pixels) + 2 + BRANCH


def _expand(product: Product, activations: Rows | Columns, window: Window) -> int:
    if isinstance(activations, Columns):
        run = -(-window.kernel[1] * window.channels // 4)
        column = GATHER_PIXEL + window.kernel[0] * (GATHER_ROW + run * EXPAND_QUAD)
        copy = 0 if activations.is_direct else COPY_BYTE * activations.image_shape[0] * activations.image_shape[1]
        return window.out_height * window.out_width * column + copy
    return (window.height + sum(window.padding[:2])) * window.width * -(-window.channels // 4) * EXPAND_QUAD


def _correct(product: Product, tiles: int, channels: int) -> int:
    """Unsigned weights need the sum of the activations once for each tile of pixels."""
    pixel_tiles = tiles // -(-channels // product.tile.channels)
    words = 2 * product.segments * product.segment_quads * product.tile.pixels
    return pixel_tiles * words * 5 if product.weights.zero else 0


LOOKUP = 1 + 3 + 2
"""UXTAB, LDRD and two QADD16: 12 products."""
TABLE = 205
"""Cycles to build a table."""
LOOKUP_OUTPUT = 11
UNPACK_CODE = 6


def lookup_cycles(plan: Lookup) -> int:
    """Cycles of a ternary convolution by table lookup."""
    w = plan.window
    tiles = w.out_height * plan.lane_columns * plan.out_channels // TILE_CHANNELS
    runs = w.kernel[0] * (plan.run * (2 + TILE_CHANNELS * LOOKUP + 1) + plan.chunks * SEGMENT * (2 if plan.wide else 1))
    rows = (w.out_height - 1) * w.stride[0] + w.kernel[0]
    tables = rows * plan.positions * plan.groups * TABLE
    codes = plan.out_channels // TILE_CHANNELS * w.kernel[0] * plan.run * TILE_CHANNELS * UNPACK_CODE
    return tiles * (runs + LANES * TILE_CHANNELS * LOOKUP_OUTPUT) + tables + codes


def residual_cycles(graph: QuantGraph, op: Op) -> int:
    """Cycles that the add of a fused operator takes in its convolution."""
    return ADD_TO_OUTPUT * graph.values[op.output].elements if isinstance(op, Conv2dAdd) else 0
