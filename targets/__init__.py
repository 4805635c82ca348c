"""Devices: what they are, how kernels are chosen for them and how they are run."""

import json
import platform
import tomllib
from functools import cache
from importlib.resources import files

from pydantic import ValidationError

from qkd.base.records import faults_in
from qkd.errors import InvariantError, RecipeError
from qkd.target import Target

_NAMES = (
    "host",
    "cortex_a53",
    "cortex_a72",
    "cortex_a76",
    "armv8_6_i8mm",
    "cortex_m0plus",
    "cortex_m4",
    "cortex_m7",
    "cortex_m33",
    "cortex_m55",
)


def target_names() -> tuple[str, ...]:
    """The devices that a recipe may name."""
    return _NAMES


@cache
def load_target(name: str) -> Target:
    """Read a device.

    Parameters
    ----------
    name : str
        One of `target_names()`.

    Returns
    -------
    Target
        With the architecture of this machine filled into the host's triple.

    Raises
    ------
    RecipeError
        When there is no such device.
    InvariantError
        When the device's file is faulty, with every fault.
    """
    if name not in _NAMES:
        raise RecipeError(f"no device {name!r}; a recipe may name {', '.join(_NAMES)}")
    path = files("qkd.targets") / "devices" / f"{name}.toml"
    return parse_target(path.read_text(encoding="utf-8"), name)


def parse_target(text: str, name: str) -> Target:
    """Turn the text of a device file into a Target, or raise InvariantError naming every fault."""
    try:
        table = {"name": name, **tomllib.loads(text.replace("{machine}", platform.machine()))}
        return Target.model_validate_json(json.dumps(table))  # JSON, because strict Python input wants tuples
    except tomllib.TOMLDecodeError as error:
        raise InvariantError(f"targets/devices/{name}.toml is not TOML: {error}") from None
    except ValidationError as error:
        raise InvariantError(f"targets/devices/{name}.toml has {faults_in(error)}") from None
