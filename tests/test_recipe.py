"""Recipes: every fault is reported at once, with its path and the value given."""

from pathlib import Path

import pytest

from qkd.bits import Bits
from qkd.errors import RecipeError
from qkd.recipe import load_recipe

GOOD = """
name = "tiny"
bits = ["W4A8"]
devices = ["host"]
[data]
name = "digits"
validation = 200
[teacher]
model = "digits_teacher"
[student]
model = "digits_student"
[[passes]]
name = "qat"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_a_good_recipe_loads_with_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    assert (recipe.name, recipe.train.seed, recipe.passes[0]["name"]) == ("tiny", 0, "qat")


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    text = GOOD.replace('"W4A8"', '"W9A8"').replace("validation = 200", "validation = 0\nflop = true")
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text))
    message = str(caught.value)
    assert "3 faults" in message
    for part in ("data.validation", "data.flop", "bits 'W9A8' are not a format"):
        assert part in message


@pytest.mark.parametrize("bits", ["W1A8", "W4", "W4A9", "ternaryA8", "w4a8"])
def test_bits_out_of_range_name_what_is_allowed(bits: str) -> None:
    with pytest.raises(RecipeError, match=r"write W<2\.\.8>A<2\.\.8> or ternary-A<2\.\.8>"):
        Bits.parse(bits)


@pytest.mark.parametrize("bits", ["W4A8", "W4A4", "W2A8", "ternary-A8", "ternary-A4", "W8A8"])
def test_bits_are_written_as_they_are_read(bits: str) -> None:
    assert str(Bits.parse(bits)) == bits


def test_changes_on_the_command_line_reach_nested_keys(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD), ("train.seed=7", 'bits=["W2A8"]', "student.model=other"))
    assert (recipe.train.seed, recipe.bits, recipe.student.model) == (7, ("W2A8",), "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("bits=W4A8", r'write a list, \["W4A8"\]'),
        ('devices=["host", "host"]', "'host' stands there more than once"),
        ("train.threads=20000", "less than or equal to 1024"),
        ("train.weight_decay=inf", "finite number"),
    ],
)
def test_a_change_that_cannot_be_is_worded_with_what_can(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(written(tmp_path, GOOD), (change,))


def test_a_missing_recipe_says_where_recipes_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"benchmarks/recipes"):
        load_recipe(tmp_path / "none.toml")


def test_a_data_path_is_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD.replace('name = "digits"', 'name = "cifar10"\npath = "pictures"')))
    assert recipe.data.path == str(tmp_path / "pictures")
