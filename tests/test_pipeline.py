"""Passes: order is proved before any work, promises are checked after each step, a run can start in the middle."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from qkd.errors import InvariantError, RecipeError
from qkd.pipeline import Invariant, check_order, run_passes

State = tuple[str, ...]


def has_bread(state: State) -> str | None:
    """There is bread."""
    return None if "bread" in state else f"only {state} on the plate"


@dataclass(frozen=True)
class Step:
    name: str
    act: Callable[[State], State]
    requires: tuple[Invariant[State], ...] = ()
    forbids: tuple[Invariant[State], ...] = ()
    ensures: tuple[Invariant[State], ...] = ()

    def __call__(self, state: State) -> State:
        return self.act(state)


bake = Step("bake", lambda s: (*s, "bread"), ensures=(has_bread,))
butter = Step("butter", lambda s: (*s, "butter"), requires=(has_bread,))
toast = Step("toast", lambda s: (*s, "toast"), forbids=(has_bread,))
eat = Step("eat", lambda s: tuple(x for x in s if x != "bread"))


def test_a_pass_before_what_it_needs_is_refused_by_name_and_rule() -> None:
    with pytest.raises(RecipeError, match=r"pass 1 'butter' cannot run there: it needs “There is bread\.”"):
        check_order([butter, bake])


def test_a_pass_behind_what_it_forbids_is_refused_by_name_and_rule() -> None:
    with pytest.raises(RecipeError, match=r"pass 2 'toast' cannot run there: it must not find “There is bread\.”"):
        check_order([bake, toast])


def test_what_is_given_may_be_forbidden_too() -> None:
    with pytest.raises(RecipeError, match=r"what comes before it \(nothing\) or the recipe's own files provide that"):
        check_order([toast], given=(has_bread,))


def test_the_right_order_is_accepted() -> None:
    check_order([toast, bake, butter])


def test_a_later_pass_that_breaks_an_earlier_promise_is_caught() -> None:
    with pytest.raises(InvariantError, match=r"after 'eat' the rule “There is bread\.” does not hold"):
        run_passes([bake, eat], ())


def test_observers_see_every_state_in_order() -> None:
    seen: list[tuple[int, str, State]] = []
    run_passes([bake, butter], (), [lambda i, step, state: seen.append((i, step.name, state))])
    assert seen == [(0, "bake", ("bread",)), (1, "butter", ("bread", "butter"))]


def test_a_resumed_run_does_only_what_is_left() -> None:
    assert run_passes([bake, butter], ("bread",), start=1) == ("bread", "butter")
