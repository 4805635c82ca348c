"""A reporter that stops a run in the middle."""

from collections.abc import Iterator
from contextlib import contextmanager

from qkd.base.progress import Advance, Silent


class Interrupts(Silent):
    """Raises KeyboardInterrupt at the n-th step of a bar."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(amount: int = 1, note: str = "") -> None:
            if note:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt

        yield advance
