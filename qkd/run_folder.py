"""What lies where in a run's folder, and what its models are called."""

import json
from pathlib import Path

from qkd.base.files import write_atomic
from qkd.bits import Bits
from qkd.errors import RecipeError
from qkd.recipe import Recipe, parse_recipe

RECIPE = "recipe.json"
"""The resolved recipe in a run's folder."""


def model_name(recipe_name: str, bits: str) -> str:
    """The C prefix of one format's model: `digits` and "ternary-A8" give `digits_ternary_a8`."""
    return f"{recipe_name}_{str(Bits.parse(bits)).lower().replace('-', '_')}"


def graph_path(folder: Path, bits: str) -> Path:
    """Where a run keeps the graph of a format."""
    return folder / bits.lower() / "graph.safetensors"


def weights_path(folder: Path, bits: str, network: str) -> Path:
    """Where a run keeps the float "teacher" and "student" that a format was trained with."""
    return folder / bits.lower() / f"{network}.safetensors"


def write_run_recipe(folder: Path, recipe: Recipe) -> None:
    """Keep the resolved recipe with the run."""
    write_atomic(folder / RECIPE, recipe.model_dump_json(indent=1) + "\n")


def read_run_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run's folder."""
    try:
        return parse_recipe(json.loads((folder / RECIPE).read_text()), str(folder / RECIPE))
    except (OSError, ValueError):
        raise RecipeError(f"no run in {folder}; name the --out folder of `qkd run`") from None
