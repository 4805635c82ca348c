"""What a program needs to run on an emulated board: start-up code, linker script, semihosting, printing."""

from importlib.resources import files

from qkd.target import Target

_CORTEX_M = ("cortex_m.ld", "cortex_m_start.c", "host.h", "memory.c", "print_semihosting.c", "semihosting.c")


def board_files(target: Target) -> dict[str, bytes]:
    """The files by name, for a bundle's example; Linux targets bring all of it and need none."""
    names = _CORTEX_M if target.kind == "cortex_m" else ()
    return {name: (files("qkd.targets") / "runtime" / name).read_bytes() for name in names}
