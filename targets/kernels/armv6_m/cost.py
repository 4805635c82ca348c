"""Estimated cycles of the templates on a Cortex-M0+ without wait states, to choose between them.

Costs by class (Arm DDI 0484C, table 3.1): arithmetic and the fast multiplier 1, a load or store 2, n words at once
1 + n, a taken branch 2. What stands around the inner loops is a number of cycles fitted to `targets.cycle_model` on the
emulator. Only the order of the estimates matters.
"""

from qkd.targets.kernels.armv6_m.requantize import DigitRequantize
from qkd.targets.kernels.armv6_m.rows import Lookup, Multiply, Rows
from qkd.targets.kernels.rates import Rate

RUN = 60
"""Cycles around an inner loop: addresses, starts, registers that wait in memory."""
COPY = 8
OUTPUT = 22
DIGIT = 5
UNPACK_CODE = 15

ADD = Rate(output=24)
POOL = Rate(mac=9, output=30)


def rows_cycles(plan: Rows, steps: DigitRequantize) -> int:
    """Cycles of a convolution by rows."""
    w, n = plan.window, plan.words
    run = RUN + plan.part * _unit(plan) + n * (5 if not plan.wide else 12)
    runs = w.out_height * w.kernel[0] * plan.lane_columns * plan.out_channels * plan.chunks
    starts = plan.row_count * plan.lane_columns * plan.chunks if isinstance(plan.scheme, Multiply) else 0
    outputs = w.out_height * plan.lane_columns * plan.lanes * plan.out_channels
    epilogue = OUTPUT + DIGIT * int(steps.digits.shape[1])
    codes = plan.fractions * 5 * UNPACK_CODE
    return (runs + starts) * run + outputs * epilogue + plan.row_count * _expand(plan) + codes


def _unit(plan: Rows) -> int:
    """Cycles of a unit in the inner loop."""
    n, scheme = plan.words, plan.scheme
    if isinstance(scheme, Lookup):
        return 2 + 1 + (1 + n) + n
    return scheme.group * (1 + 1 + n + 2 * n) + 1


def _expand(plan: Rows) -> int:
    """Cycles to bring in a row."""
    n, scheme = plan.words, plan.scheme
    channels = plan.positions * plan.units * scheme.group
    words = channels * n * (11 if plan.paired else 6)
    copy = 0 if plan.is_direct else COPY * plan.window.width * plan.window.channels
    if isinstance(scheme, Lookup):
        table = scheme.unit_entries * (1 + n + n) + scheme.unit_entries // scheme.levels * 2 * n + 60
        words += plan.positions * plan.units * table
    return words + copy
