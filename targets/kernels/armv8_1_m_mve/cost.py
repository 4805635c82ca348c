"""Estimated cycles of the MVE kernels on a Cortex-M55, to choose between them: fitted to llvm-mca's model of the core.

A pass multiplies a tile of pixels with some channels: each vector of 16 codes costs `vector` cycles (two beats a
product, loads beside them, unpacking, registers that are spilled), and what is around it costs `tile` for each tile and
quad of channels. `rates.py` says how such numbers are fitted.
"""

from dataclasses import dataclass

from qkd.targets.kernels.armv8_1_m_mve.patches import Patches
from qkd.targets.kernels.armv8_1_m_mve.products import vectors_of
from qkd.targets.kernels.armv8_1_m_mve.vectors import LANES, QUAD
from qkd.targets.kernels.rates import Rate


@dataclass(frozen=True)
class PassCycles:
    """What a shape of pass costs."""

    vector: float
    tile: float


PASSES = {
    (8, 3, 2): PassCycles(12.8, 46.5),
    (8, 2, 2): PassCycles(9.2, 25.1),
    (8, 1, 4): PassCycles(10.9, 15.9),
    (8, 1, 2): PassCycles(6.65, 13.5),
    (4, 3, 2): PassCycles(14.0, 48.0),
    (4, 2, 2): PassCycles(10.4, 27.1),
    (4, 1, 4): PassCycles(10.95, 17.5),
    (4, 1, 2): PassCycles(5.85, 16.7),
    (2, 3, 2): PassCycles(14.9, 48.6),
    (2, 2, 2): PassCycles(10.6, 28.4),
    (2, 1, 2): PassCycles(8.65, 17.9),
}
"""By bits of a weight, pixels and channels of a pass."""
STRIP_VECTOR = 20.4
"""Cycles for 16 codes of the strip, for each output row that they lie under."""
TRIT = 0.43
"""Cycles to expand a ternary weight."""
KEEP_CODE = 0.3
"""Cycles to put a code of an addend aside."""

DEPTHWISE = Rate(mac=0.98)
ADD = Rate(output=3.26)
POOL = Rate(mac=0.157, output=22.8)


def conv_cycles(patches: Patches, channels: int, bits: int, tile: int, width: int) -> int:
    """Cycles of a convolution or a fully connected layer."""
    cost, window = PASSES[bits, tile, width], patches.window
    tiles = patches.rows * -(-patches.pixels // tile) * -(-channels // QUAD)
    passes = tiles * (QUAD // width) * vectors_of(patches.taps)
    strip = 0 if patches.direct else patches.columns * window.kernel[0] * window.channels * patches.rows / LANES
    return round(passes * cost.vector + tiles * cost.tile + strip * STRIP_VECTOR)


def trits_cycles(expanded_bytes: int) -> int:
    """Cycles to expand weights of 1.6 bits: four in each byte of 2 bits."""
    return round(4 * expanded_bytes * TRIT)


def row_add_cycles(outputs: int) -> int:
    """Cycles that a residual adds to a convolution."""
    return round(outputs * (ADD.output + KEEP_CODE))
