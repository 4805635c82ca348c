"""How many bits weights and activations have, and how that is written: W4A8, W2A8, ternary-A4."""

import re
from dataclasses import dataclass
from typing import Literal

from qkd.errors import RecipeError


@dataclass(frozen=True)
class Bits:
    """Bit widths of a student; its first and last layer stay at 8 bits."""

    weight: int | Literal["ternary"]
    activation: int

    @classmethod
    def parse(cls, text: str) -> "Bits":
        """Read "W4A8" or "ternary-A8".

        >>> Bits.parse("ternary-A4")
        Bits(weight='ternary', activation=4)
        """
        match = re.fullmatch(r"(?:W(\d+)|ternary-)A(\d+)", text)
        weight = int(match[1]) if match and match[1] else None
        if match is None or not 2 <= int(match[2]) <= 8 or (weight is not None and not 2 <= weight <= 8):
            raise RecipeError(
                f"bits {text!r} are not a format; write W<2..8>A<2..8> or ternary-A<2..8>, "
                "for example W4A8, W4A4, W2A8, ternary-A8"
            )
        return cls("ternary" if weight is None else weight, int(match[2]))

    def __str__(self) -> str:
        return f"ternary-A{self.activation}" if self.weight == "ternary" else f"W{self.weight}A{self.activation}"
