"""The worker: its thread alone touches the state, and nobody waits longer than was agreed."""

import threading
import time

import pytest

from qkd.errors import ToolError
from qkd.targets.running.worker import Worker


def test_a_call_gets_the_state_and_its_result_comes_back() -> None:
    worker = Worker(lambda: [1, 2])
    worker.ask(5, "adding", lambda state: state.append(3))
    assert worker.ask(5, "reading", tuple) == (1, 2, 3)


def test_the_state_is_made_and_used_in_one_other_thread() -> None:
    worker = Worker(threading.get_ident)
    made_in = worker.ask(5, "looking", lambda state: state)
    assert made_in == worker.ask(5, "looking", lambda _: threading.get_ident()) != threading.get_ident()


def test_whatever_a_call_raises_is_a_tool_error_with_its_text_and_the_next_call_is_answered() -> None:
    worker = Worker(dict)
    with pytest.raises(ToolError, match=r"looking up failed(?s:.)*KeyError: 'nothing'"):
        worker.ask(5, "looking up", lambda state: state["nothing"])
    assert worker.ask(5, "counting", len) == 0


def test_a_tool_error_is_passed_on_as_it_is() -> None:
    def refuse(_: object) -> None:
        raise ToolError("start the tracker")

    with pytest.raises(ToolError, match=r"^start the tracker$"):
        Worker(dict).ask(5, "connecting", refuse)


def test_a_call_that_does_not_end_is_left_behind() -> None:
    worker, never = Worker(dict), threading.Event()
    before = time.monotonic()
    with pytest.raises(ToolError, match=r"waiting: no answer within 0\.1 s"):
        worker.ask(0.1, "waiting", lambda _: never.wait())
    assert time.monotonic() - before < 5
    never.set()


def test_a_closed_worker_ends_its_thread() -> None:
    worker = Worker(threading.current_thread)
    thread = worker.ask(5, "looking", lambda state: state)
    worker.close()
    thread.join(5)
    assert not thread.is_alive()
