"""The device a network is lowered for: its core, compiler flags, memories and how it is run."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

InstructionSet = Literal[
    "host", "armv6-m", "armv7e-m", "armv8.1-m.mve", "armv8.0-a", "armv8.2-a.dotprod", "armv8.6-a.i8mm"
]
"""What kernels may use; armv7e-m is the DSP extension of Cortex-M4, M7 and M33."""


class Target(BaseModel):
    """One device, read from `targets/devices/<name>.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    kind: Literal["host", "aarch64", "cortex_m"]
    instruction_set: InstructionSet
    description: str
    mtriple: str
    """LLVM triple of four parts: TVM does not normalise shorter ones."""
    mcpu: str
    mattr: tuple[str, ...] = ()
    float_abi: Literal["hard", "soft"] | None = None
    compiler: str
    """C compiler that links firmware, e.g. arm-none-eabi-gcc."""
    cflags: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()
    """Command of the emulator; the image follows. Empty on the host."""
    flash_origin: int = 0
    flash_bytes: int | None = None
    sram_origin: int = 0
    sram_bytes: int | None = None
    clock_hz: int | None = None
