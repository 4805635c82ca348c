"""The device a network is lowered for: its core, compiler flags, memories and how it is run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from qkd.base.records import Record

InstructionSet = Literal[
    "host", "armv6-m", "armv7e-m", "armv8.1-m.mve", "armv8.0-a", "armv8.2-a.dotprod", "armv8.6-a.i8mm"
]
"""What kernels may use; armv7e-m is the DSP extension of Cortex-M4, M7 and M33."""


class Target(Record):
    """One device, read from `targets/devices/<name>.toml`."""

    name: str
    kind: Literal["host", "aarch64", "cortex_m"]
    instruction_set: InstructionSet
    description: str
    mtriple: Annotated[str, Field(pattern=r"^[^-]+-[^-]+-[^-]+-[^-]+$")]
    """LLVM triple of four parts: with three, TVM takes the libcalls of another ABI, and float results are wrong."""
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

    @model_validator(mode="after")
    def _bare_metal_has_a_memory_map(self) -> Self:
        if self.kind == "cortex_m" and not (self.flash_bytes and self.sram_bytes and self.float_abi):
            raise ValueError("a cortex_m device needs flash_bytes, sram_bytes and float_abi")
        return self
