"""What a board is believed to be: emulated by any sign, real only with every proof, else unknown."""

import struct

import pytest

from qkd.proof.device_run import Board
from qkd.targets.running.board_identity import (
    AUXILIARY,
    COMPATIBLE,
    CPUINFO,
    EXECUTABLES,
    GOVERNOR,
    KERNEL,
    MIDR,
    MODEL,
    VENDOR,
    identify,
    missing_instructions,
)

THREAD_EXE, SELF_EXE = EXECUTABLES
RASPBERRY_PI_3 = {
    THREAD_EXE: "/usr/bin/python3.11",
    SELF_EXE: "/usr/bin/python3.11",
    CPUINFO: "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n",
    MODEL: "Raspberry Pi 3 Model B Rev 1.2\0",
    COMPATIBLE: "raspberrypi,3-model-b\0brcm,bcm2837\0",
    MIDR: "0x00000000410fd034\n",
    GOVERNOR: "ondemand\n",
    KERNEL: "6.6.51+rpt-rpi-v8\n",
}
"""As Linux on such a board shows it."""
USER_MODE_EMULATOR = {
    THREAD_EXE: "/usr/bin/qemu-aarch64",
    SELF_EXE: "/usr/bin/qemu-aarch64",
    CPUINFO: "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n",
    KERNEL: "6.1.0",
}
"""As QEMU 7.2 shows it to a guest program."""


def board(facts: dict[str, str], counter_hz: int = 19_200_000, **changes: str) -> Board:
    """Identify a board by its facts with some of them changed."""
    names = {"midr": MIDR, "model": MODEL, "compatible": COMPATIBLE, "cpuinfo": CPUINFO, "vendor": VENDOR}
    shown = {**facts, **{names[key]: text for key, text in changes.items()}}
    return identify(lambda path: shown.get(path, "").encode(), counter_hz)


def test_a_real_board_is_not_emulated_and_says_what_it_is() -> None:
    found = board(RASPBERRY_PI_3)
    assert found.emulated is False
    assert found.description == "Raspberry Pi 3 Model B Rev 1.2, Linux 6.6.51+rpt-rpi-v8, clock governor ondemand"
    assert "0x00000000410fd034" in found.why


def test_user_mode_emulation_is_seen_by_what_runs_the_process() -> None:
    found = board(USER_MODE_EMULATOR)
    assert found.emulated is True
    assert "/usr/bin/qemu-aarch64" in found.why


@pytest.mark.parametrize("path", EXECUTABLES)
def test_one_spelling_of_the_process_that_the_emulator_forgot_is_enough(path: str) -> None:
    assert board({**RASPBERRY_PI_3, path: "/usr/local/bin/qemu-aarch64-static"}).emulated is True


def test_a_user_called_like_an_emulator_is_none() -> None:
    assert board({**RASPBERRY_PI_3, THREAD_EXE: "/home/my-qemu/bin/python3"}).emulated is False


def test_a_processor_without_a_manufacturer_is_an_emulators() -> None:
    assert board(RASPBERRY_PI_3, midr="0x00000000000f0510").emulated is True


@pytest.mark.parametrize(
    "changes",
    [
        {"midr": ""},
        {"midr": "rubbish"},
        {"cpuinfo": "vendor_id : GenuineIntel"},
        {"model": "linux,dummy-virt"},
        {"compatible": "linux,dummy-virt"},
        {"vendor": "QEMU"},
        {"model": "", "vendor": ""},
    ],
)
def test_what_proves_nothing_is_unknown_and_not_real(changes: dict[str, str]) -> None:
    found = board(RASPBERRY_PI_3, **changes)
    assert found.emulated is None
    assert "emulated" in found.why


def test_a_raspberry_pi_with_the_timer_of_an_emulator_is_not_believed() -> None:
    found = board(RASPBERRY_PI_3, counter_hz=62_500_000)
    assert found.emulated is None
    assert "as QEMU's does" in found.why


def test_a_board_that_tells_nothing_is_unknown() -> None:
    found = board({})
    assert found.emulated is None
    assert found.description == "board of unknown model, Linux unknown"


def auxiliary(hwcap: int, hwcap2: int) -> bytes:
    """An auxiliary vector as the kernel lays it out: pairs of words, with an odd rest at the end."""
    return struct.pack("<8Q", 6, 4096, 16, hwcap, 26, hwcap2, 0, 0) + b"\0\0\0"


def test_instructions_that_a_core_lacks_are_named() -> None:
    old, dotprod, i8mm = auxiliary(0xFF, 0), auxiliary(1 << 20, 0), auxiliary(1 << 20, 1 << 13)
    assert missing_instructions(old, "armv8.0-a") is None
    assert missing_instructions(old, "armv8.2-a.dotprod") == "dot product (asimddp)"
    assert missing_instructions(dotprod, "armv8.2-a.dotprod") is None
    assert missing_instructions(dotprod, "armv8.6-a.i8mm") == "8-bit matrix (i8mm)"
    assert missing_instructions(i8mm, "armv8.6-a.i8mm") is None
    assert missing_instructions(b"", "armv8.2-a.dotprod") is not None


def test_the_auxiliary_vector_is_asked_of_the_process_itself() -> None:
    assert AUXILIARY.startswith("/proc/self/")
