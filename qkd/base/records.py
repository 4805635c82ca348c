"""The base of everything that is read from or written to a file: frozen, and no key but those that are declared."""

from pydantic import BaseModel, ConfigDict, ValidationError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Numbers that are numbers, types that are what they say, and no unknown key."""


class Record(BaseModel):
    """What qkd writes and reads again."""

    model_config = ConfigDict(frozen=True, **STRICT)


def faults_in(error: ValidationError, prefix: str = "") -> str:
    """How many faults there are, and one line for each: path, what is wrong, what was given."""
    count = error.error_count()
    lines = ["1 fault:" if count == 1 else f"{count} faults:"]
    for fault in error.errors(include_url=False):
        where = prefix + ".".join(str(part) for part in fault["loc"])
        given = "" if fault["type"] == "missing" else f" (given: {fault['input']!r})"
        lines.append(f"  {where}: {fault['msg']}{given}")
    return "\n".join(lines)
