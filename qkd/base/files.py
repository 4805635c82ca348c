"""Write files whole or not at all, and turn a full disk into an error that says so."""

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from qkd.errors import ToolError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`; a crash at any moment leaves the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    save_atomic(path, lambda temporary: temporary.write_bytes(data))


def save_atomic(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a temporary file beside `path`, flush it to disk and move it into place."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_folder(folder: Path, save: Callable[[Path], object]) -> None:
    """Let `save` fill a temporary folder beside `folder`, then put it in its place; the old one stays until then."""
    partial, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    try:
        if old.exists() and not folder.exists():  # killed between the two renames below
            old.rename(folder)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        save(partial)
        _flush(partial)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Wait until every file below `folder` is on the disk: this is where a full one is noticed at the latest."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def disk_error(path: Path, error: OSError) -> ToolError:
    """Word an operating-system error for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ToolError(f"the disk is full at {path}; free some space, then run again: it goes on where it was")
    return ToolError(f"cannot write {path}: {error.strerror or error}; choose another --out or mend its permissions")
