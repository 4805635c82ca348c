"""The documents are true: doctests run, the README's commands exist, what it names is there."""

import doctest
import importlib
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.tables import PAGE, page
from qkd.cli import app
from qkd.recipe import parse_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def modules_with_doctests() -> list[str]:
    found = []
    for folder, package in (("qkd", "qkd"), ("passes", "qkd.passes"), ("targets", "qkd.targets")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>>" in path.read_text():
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found.append(".".join((package, *parts)).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("module", modules_with_doctests())
def test_doctests_hold(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"^ +qkd (\w+)", README, re.MULTILINE))))
def test_every_verb_of_the_readme_exists(verb: str) -> None:
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake (\w+)", README))))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"benchmarks/[\w/.]+\.\w+", README))))
def test_every_file_the_readme_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_recipe_in_the_readme_is_a_recipe() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert parse_recipe(tomllib.loads(block), "README.md").name == "digits"


def test_the_readme_names_no_folder_outside_the_project() -> None:
    assert "../" not in README


def test_the_results_page_is_what_the_results_files_say() -> None:
    assert PAGE.read_text() == page(), "run: python -m benchmarks.tables"
