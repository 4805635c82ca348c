"""The command line, called in this process."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from qkd import cli


@dataclass(frozen=True)
class Called:
    returncode: int
    stdout: str
    stderr: str


def qkd(*arguments: str | Path, folder: Path) -> Called:
    """Call the command line in this process, as the installed script does: torch and tvm are imported once."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["qkd", *map(str, arguments)])
        patch.setattr(cli, "console", Console(file=out, width=200))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Called(int(ended.value.code or 0), out.getvalue(), err.getvalue())
