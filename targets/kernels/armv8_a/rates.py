"""Estimated cycles of the AArch64 kernels, by core: rates fitted to llvm-mca's estimates, as `rates.py` says."""

import re
from collections.abc import Mapping
from typing import TypeAlias

from qkd.target import Target
from qkd.targets.kernels.armv8_a.elements import is_in_order
from qkd.targets.kernels.rates import Rate, Work

CoreRates: TypeAlias = Mapping[str, Rate]
"""By template; `single` is a weighted layer of one pixel, whatever the template."""

IN_ORDER: CoreRates = {
    "winograd": Rate(mac=0.077, output=1.44, output_times_n=2.54),
    "direct_int16_by_element": Rate(mac=0.168, weight=0.84, input=1.17),
    "direct_int16": Rate(mac=0.261, input=0.58),
    "few_taps": Rate(mac=0.374),
    "dot_lanes": Rate(mac=0.171, mac_over_n=0.225, output=2.05, weight=0.51),
    "single": Rate(mac=1.44),
    "depthwise": Rate(mac=0.55, output_times_n=0.183),
    "vector_add": Rate(output=3.67),
    "vector_pool": Rate(mac=0.446),
}
"""Cortex-A53."""

OUT_OF_ORDER: CoreRates = {
    "winograd": Rate(mac=0.055, output=1.2, output_times_n=0.65),
    "direct_int16": Rate(mac=0.128, output=0.53, weight=0.08),
    "dot_lanes": Rate(mac=0.134, mac_over_n=0.013, output=0.71),
    "single": Rate(mac=0.183),
    "depthwise": Rate(mac=0.264),
    "vector_add": Rate(output=1.16),
    "vector_pool": Rate(mac=0.136),
}
"""Cortex-A72, by the model of the A57."""

DOT_PRODUCT: CoreRates = {
    "sdot": Rate(mac=0.0333, output=0.83),
    "single": Rate(mac=0.092),
    "depthwise": Rate(mac=0.253),
    "vector_add": Rate(output=1.19),
    "vector_pool": Rate(mac=0.109),
}
"""Cortex-A76, by the model of the Neoverse N1."""

MATRIX_PRODUCT: CoreRates = {
    "smmla": Rate(mac=0.0215, output=0.864, weight=0.06),
    "sdot": Rate(mac=0.0325, output=0.655, weight=0.025),
    "single": Rate(mac=0.094),
    "depthwise": Rate(mac=0.2),
    "vector_add": Rate(output=0.955),
    "vector_pool": Rate(mac=0.084),
}
"""Armv8.6 with i8mm, by the model of the Neoverse N2."""


def rates_of(target: Target) -> CoreRates:
    """The rates of the core that a device has, or of its like."""
    if target.instruction_set == "armv8.6-a.i8mm":
        return MATRIX_PRODUCT
    if target.instruction_set == "armv8.2-a.dotprod":
        return DOT_PRODUCT
    return IN_ORDER if is_in_order(target) else OUT_OF_ORDER


def cycles(work: Work, variant: str, core: CoreRates) -> int:
    """Cycles of one call of a kernel."""
    template = re.sub(r"_\d+(x\d+)?$", "", variant)
    if work.weights and work.pixels == 1:
        template = "single"
    return core[template].cycles(work, variant)
