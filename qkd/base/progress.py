"""Progress of long work: what to call, silent or as bars on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Called as work gets done; `note` replaces the text behind the bar."""

    def __call__(self, amount: int = 1, note: str = "") -> None: ...


class Reporter(Protocol):
    """Opens a bar of `total` steps for the time of a `with` block."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Yield the function that advances the bar."""
        ...

    def say(self, text: str) -> None:
        """Print a line that stays."""
        ...


class Silent:
    """Reports nothing: for tests and for use as a library."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """A bar that nobody sees."""
        yield lambda amount=1, note="": None

    def say(self, text: str) -> None:
        """Print nothing."""


class Bars:
    """Bars on a terminal; one finished line a task where the output is a file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Show a bar with the steps done, the time spent and the time left."""
        columns = (
            TextColumn("{task.description:<38}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=False) as bars:
            identity = bars.add_task(title, total=total, note="")

            def advance(amount: int = 1, note: str = "") -> None:
                bars.update(identity, advance=amount)
                if note:
                    bars.update(identity, note=note)

            yield advance

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False)
