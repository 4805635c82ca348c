"""A thread for calls that cannot be interrupted: whoever asks waits for a limited time, and never longer."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from qkd.errors import ToolError

State = TypeVar("State")
Result = TypeVar("Result")
Answer = tuple[bool, object]


class Worker(Generic[State]):
    """Owns an object that only its thread may touch, or free: both can block for ever once the other side is gone.

    The thread keeps nobody from ending the program, so a call that never ends is left behind with all it holds.
    """

    def __init__(self, make_state: Callable[[], State]) -> None:
        """Start the thread, which makes its object."""
        self._calls: SimpleQueue[tuple[Callable[[State], object], SimpleQueue[Answer]] | None] = SimpleQueue()
        Thread(target=_work, args=(make_state, self._calls), daemon=True).start()

    def ask(self, limit_s: float, task: str, call: Callable[[State], Result]) -> Result:
        """Call in the thread and return the result.

        Raises
        ------
        ToolError
            When the call raises anything, or takes longer than `limit_s` seconds.
        """
        answers: SimpleQueue[Answer] = SimpleQueue()
        self._calls.put((call, answers))
        try:
            well, result = answers.get(timeout=limit_s)
        except Empty:
            raise ToolError(
                f"{task}: no answer within {limit_s:g} s. The other side is gone, busy or not what it should be: "
                "see that it runs and can be reached, or start it again."
            ) from None
        if isinstance(result, ToolError):
            raise result
        if not well:
            raise ToolError(f"{task} failed", output=str(result))
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """Let the thread end after the calls that it was asked for."""
        self._calls.put(None)


def _work(
    make_state: Callable[[], State],
    calls: SimpleQueue[tuple[Callable[[State], object], SimpleQueue[Answer]] | None],
) -> None:
    state = make_state()
    while (asked := calls.get()) is not None:
        call, answers = asked
        answers.put(_answer(call, state))


def _answer(call: Callable[[State], object], state: State) -> Answer:
    """Whether a call succeeded, and its result or what went wrong, as text: a traceback would carry the state along."""
    try:
        return True, call(state)
    except ToolError as error:
        return False, error.with_traceback(None)
    except Exception as error:  # a foreign library raises what it likes
        return False, f"{type(error).__name__}: {error}"
