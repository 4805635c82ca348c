"""What a Linux board is, and whether it is emulated: time on an emulated board is no latency, so doubt counts as such.

An emulator lies about many things: user-mode QEMU answers `uname` as an Arm kernel would, and hides itself behind
/proc/self. What it cannot show is the register file that a real Arm kernel keeps in sysfs. System-mode QEMU shows that
too, and even the model of a Raspberry Pi; it is known by its timer.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping

from qkd.proof.device_run import Board
from qkd.target import InstructionSet

# User-mode QEMU rewrites /proc/self, each version a few more spellings of it; these two it leaves to the real kernel.
EXECUTABLES = ("/proc/thread-self/exe", "/proc//self/exe")
CPUINFO = "/proc/cpuinfo"
MODEL = "/proc/device-tree/model"
COMPATIBLE = "/proc/device-tree/compatible"
VENDOR = "/sys/class/dmi/id/sys_vendor"
MIDR = "/sys/devices/system/cpu/cpu0/regs/identification/midr_el1"
GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
KERNEL = "/proc/sys/kernel/osrelease"
AUXILIARY = "/proc/self/auxv"
TEXTS = (*EXECUTABLES, CPUINFO, MODEL, COMPATIBLE, VENDOR, MIDR, GOVERNOR, KERNEL)

EMULATORS = re.compile(r"(?:^|/)(?:qemu|rosetta|fex|box64|blink|valgrind)", re.IGNORECASE)
EMULATED_COUNTER_HZ = 62_500_000
"""QEMU's generic timer on the cores of Armv8.0 to 8.5; boards have 19.2, 24, 25, 54, 100 MHz and the like."""
VIRTUAL_BOARDS = re.compile(r"qemu|dummy-virt|foundation-|fvp|gem5", re.IGNORECASE)

_AT_HWCAP, _AT_HWCAP2 = 16, 26
REQUIRED: Mapping[InstructionSet, tuple[str, int, int]] = {
    "armv8.2-a.dotprod": ("dot product (asimddp)", _AT_HWCAP, 20),
    "armv8.6-a.i8mm": ("8-bit matrix (i8mm)", _AT_HWCAP2, 13),
}
"""Instructions that not every 64-bit Arm core has: their name, and the word and bit by which Linux tells of them."""


def identify(read: Callable[[str], bytes], counter_hz: int) -> Board:
    """Say what a board is.

    Parameters
    ----------
    read : callable
        Returns what stands behind a path on the board, a link's target or a file's content; b"" where nothing does.
        It must run as native code there, in the process that runs the model.
    counter_hz : int
        Frequency of the core's generic timer.

    Returns
    -------
    Board
        Emulated where one sign says so, not emulated only where all that a real board shows is there, else unknown.
    """
    texts = {path: read(path).decode(errors="replace").strip("\0 \n") for path in TEXTS}
    return Board(_description(texts), *_verdict(texts, counter_hz))


def missing_instructions(auxiliary: bytes, instruction_set: InstructionSet) -> str | None:
    """Which instructions of a target the board's core lacks, from its auxiliary vector; None where it lacks none."""
    if instruction_set not in REQUIRED:
        return None
    name, word, bit = REQUIRED[instruction_set]
    pairs = dict(struct.iter_unpack("<QQ", auxiliary[: len(auxiliary) // 16 * 16]))
    return None if pairs.get(word, 0) >> bit & 1 else name


def _verdict(texts: Mapping[str, str], counter_hz: int) -> tuple[bool | None, str]:
    for path in EXECUTABLES:
        if EMULATORS.search(texts[path]):
            return True, f"emulated: its processes are run by {texts[path]}"
    midr = texts[MIDR]
    if _midr_number(midr) is not None and _implementer(midr) == 0:
        return True, f"emulated: its processor {midr} names no manufacturer"
    for path in (MODEL, COMPATIBLE, VENDOR):
        if VIRTUAL_BOARDS.search(texts[path]):
            return None, f"a virtual machine by {path}: whether its processor is emulated cannot be told"
    if counter_hz == EMULATED_COUNTER_HZ:
        return None, f"its timer runs at {counter_hz:,} Hz, as QEMU's does: it may be emulated"
    if _midr_number(midr) is None or "CPU implementer" not in texts[CPUINFO]:
        return None, f"it has no {MIDR}, which every 64-bit Arm kernel has: it may be emulated"
    if not (texts[MODEL] or texts[VENDOR]) or not any(texts[path] for path in EXECUTABLES):
        return None, "it does not tell its model, or what runs its processes: it may be emulated"
    return False, f"not emulated: an Arm kernel with processor {midr}"


def _description(texts: Mapping[str, str]) -> str:
    named = texts[MODEL] or texts[VENDOR] or "board of unknown model"
    processor = re.search(r"^model name\s*: (.*)$", texts[CPUINFO], re.MULTILINE)
    parts = [named.replace("\0", " "), processor[1] if processor else "", f"Linux {texts[KERNEL] or 'unknown'}"]
    if texts[GOVERNOR]:
        parts.append(f"clock governor {texts[GOVERNOR]}")
    return ", ".join(part for part in parts if part)


def _midr_number(midr: str) -> int | None:
    return int(midr, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", midr) else None


def _implementer(midr: str) -> int:
    return int(midr, 16) >> 24 & 0xFF
