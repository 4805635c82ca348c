"""Tools: found or missed with a hint, ended after their time, failures shown with their last lines."""

import sys
from pathlib import Path

import pytest

from qkd.errors import ToolError
from qkd.targets import load_target, target_names
from qkd.targets.running import toolchain
from qkd.targets.running.toolchain import (
    check_tools,
    ending,
    find_tool,
    install_hint,
    missing_tools,
    needed_tools,
    run_checked,
    run_tool,
    working_folder,
)


@pytest.mark.parametrize("name", target_names())
def test_every_tool_of_every_device_has_an_install_hint(name: str) -> None:
    assert set(needed_tools(load_target(name))) <= set(toolchain.PACKAGES)


def test_the_host_needs_only_a_compiler() -> None:
    assert needed_tools(load_target("host")) == ("cc",)


def test_missing_tools_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    target = load_target("cortex_m4")
    assert missing_tools(target) == ("arm-none-eabi-gcc", "qemu-system-arm", "cc")
    with pytest.raises(ToolError, match=r"apt install gcc-arm-none-eabi qemu-system-arm gcc libc6-dev\. Or leave"):
        check_tools(target)


def test_an_unknown_tool_is_its_own_package() -> None:
    assert install_hint(["objcopy"]) == "apt install objcopy"
    with pytest.raises(ToolError, match="no-such-tool cannot be found on PATH"):
        find_tool("no-such-tool")


def test_a_failing_tool_shows_its_command_and_last_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('line ' * 3); sys.exit('the reason')"]
    with pytest.raises(ToolError, match=r"baking failed: status 1(?s:.)*command: (?s:.)*the reason") as caught:
        run_checked(command, "baking", tmp_path)
    assert caught.value.command == tuple(command)


def test_a_tool_that_hangs_is_ended_and_what_it_printed_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-uc", "import time; print('so far'); time.sleep(60)"]
    with pytest.raises(ToolError, match=r"baking did not end within 0\.5 s(?s:.)*so far"):
        run_tool(command, "baking", tmp_path, limit_s=0.5)


def test_a_tool_cannot_read_the_terminal(tmp_path: Path) -> None:
    printed = run_checked([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], "reading", tmp_path)
    assert printed.strip() == "0"


def test_a_program_that_is_not_one_is_a_tool_error(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF but no")
    program.chmod(0o755)
    with pytest.raises(ToolError, match="cannot be started"):
        run_tool([str(program)], "baking", tmp_path, 1.0)


def test_a_signal_reads_as_a_signal() -> None:
    assert ending(-11) == "ended by signal 11"
    assert ending(3) == "status 3"


def test_a_working_folder_that_cannot_be_made_is_a_tool_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ToolError, match=r"cannot write .*missing"), working_folder():
        pass
