"""Files are written whole or not at all."""

import errno
from pathlib import Path

import pytest

from qkd.base.files import save_atomic, save_folder, write_atomic
from qkd.errors import ToolError


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


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    for content in ("old", "new"):
        save_folder(folder, lambda partial, name=content: (partial / name).write_text("x"))
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_folder_leaves_the_old_one(failure: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    save_folder(folder, lambda partial: (partial / "old").write_text("x"))

    def stop_half_way(partial: Path) -> None:
        (partial / "half").write_text("x")
        raise failure

    with pytest.raises(ToolError if isinstance(failure, OSError) else KeyboardInterrupt):
        save_folder(folder, stop_half_way)
    assert [p.name for p in folder.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_was_moved_away_by_a_killed_run_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".bundle.old").mkdir()
    (tmp_path / ".bundle.old" / "kept").write_text("x")
    with pytest.raises(ZeroDivisionError):
        save_folder(tmp_path / "bundle", lambda partial: 1 // 0)
    assert [p.name for p in (tmp_path / "bundle").iterdir()] == ["kept"]
