"""Files are written whole or not at all."""

import errno
from pathlib import Path

import pytest

from qkd.errors import ToolError
from qkd.files import save_atomic, write_atomic


def test_a_failing_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, "old")

    def fill_the_disk(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ToolError, match="the disk is full"):
        save_atomic(path, fill_the_disk)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match=r"cannot write .*file/inside"):
        write_atomic(tmp_path / "file" / "inside", "x")
