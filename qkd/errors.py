"""The five errors a user can meet: what is wrong with the value, what is allowed, what to do."""

from collections.abc import Sequence


class QkdError(Exception):
    """Base of every error that qkd raises on purpose; the command line prints it without a traceback."""


class RecipeError(QkdError):
    """What the user asked for cannot be done: a bad key, value, pass order, data set or checkpoint."""


class UnsupportedOpError(QkdError):
    """The model holds something that cannot be turned into integers or lowered to the device."""


class DoesNotFitError(QkdError):
    """The model needs more flash or SRAM than the device or the recipe's budget has."""


class InvariantError(QkdError):
    """A pass broke its promise; this is a defect in qkd, not in the recipe."""


class ToolError(QkdError):
    """A compiler, emulator, board or disk is missing or failed.

    Parameters
    ----------
    message : str
        What happened and what to do about it.
    command : sequence of str
        The command that was run; empty where none was.
    output : str
        What the command printed; the last ten lines are shown.
    """

    def __init__(self, message: str, command: Sequence[str] = (), output: str = "") -> None:
        self.command = tuple(command)
        tail = "\n  ".join(output.strip().splitlines()[-10:])
        lines = [message]
        if command:
            lines.append("command: " + " ".join(command))
        if tail:
            lines.append("its last lines:\n  " + tail)
        super().__init__("\n".join(lines))
