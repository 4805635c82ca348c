"""What a pass is, and how a list of passes runs: order proved first, promises checked after each step."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from qkd.errors import InvariantError, RecipeError

S = TypeVar("S")

Invariant: TypeAlias = Callable[[S], str | None]
"""None: holds; a string: what is wrong. Its docstring is the rule, and the rule is the message."""

Observer: TypeAlias = Callable[[int, "Pass[S]", S], None]
"""Called after each pass with its index, the pass and the new state: checkpoints, logs, progress."""


class Pass(Protocol[S]):
    """A step from a state to the next state of the same type: a frozen dataclass, thin over a plain function."""

    @property
    def name(self) -> str:
        """The name a recipe calls it by."""
        ...

    @property
    def requires(self) -> Sequence[Invariant[S]]:
        """What must hold before; some earlier pass must ensure it."""
        ...

    @property
    def forbids(self) -> Sequence[Invariant[S]]:
        """What no earlier pass may ensure, such as trained weights where a method starts from first ones."""
        ...

    @property
    def ensures(self) -> Sequence[Invariant[S]]:
        """What holds afterwards, and after every later pass."""
        ...

    def __call__(self, state: S, /) -> S:
        """Return the next state; the one received stays as it was."""
        ...


def rule(invariant: Invariant[S]) -> str:
    """The sentence an invariant stands for: the first line of its docstring."""
    return (invariant.__doc__ or invariant.__name__).strip().splitlines()[0]


def check_order(passes: Sequence[Pass[S]], given: Sequence[Invariant[S]] = ()) -> None:
    """Prove before any work that each `requires` is ensured earlier and no `forbids` is, or raise RecipeError."""
    known = list(given)
    for index, step in enumerate(passes):
        refused = f"pass {index + 1} {step.name!r} cannot run there: it"
        before = ", ".join(p.name for p in passes[:index]) or "nothing"
        for need in step.requires:
            if need not in known:
                raise RecipeError(
                    f"{refused} needs “{rule(need)}”, and what comes before it ({before}) does not provide that. "
                    "Move it behind a pass that does."
                )
        for never in step.forbids:
            if never in known:
                raise RecipeError(
                    f"{refused} must not find “{rule(never)}”, and what comes before it ({before}) or the recipe's "
                    "own files provide that. Leave that out, or use a pass that goes on from it."
                )
        known.extend(step.ensures)


def run_passes(passes: Sequence[Pass[S]], state: S, observe: Sequence[Observer[S]] = (), start: int = 0) -> S:
    """Run `passes[start:]`, checking after each one every rule that was ever ensured.

    `start` is where a resumed run goes on: `state` must then be what `passes[start - 1]` returned.
    """
    known: list[Invariant[S]] = [rule_ for step in passes[:start] for rule_ in step.ensures]
    for index, step in enumerate(passes[start:], start):
        state = step(state)
        known.extend(rule_ for rule_ in step.ensures if rule_ not in known)
        check_rules(known, state, after=step.name)
        for observer in observe:
            observer(index, step, state)
    return state


def check_rules(rules: Sequence[Invariant[S]], state: S, after: str) -> None:
    """Raise InvariantError for the first rule that does not hold."""
    for invariant in rules:
        wrong = invariant(state)
        if wrong is not None:
            raise InvariantError(f"after {after!r} the rule “{rule(invariant)}” does not hold: {wrong}")
