"""Fixtures that several test files share."""

from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`."""
    parser.addoption("--update-golden", action="store_true", help="accept what the tests generate as the golden files")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], str]:
    """What a generated text must equal byte for byte: `tests/golden/<file>`, with --update-golden the text itself."""
    update = request.config.getoption("--update-golden")

    def accepted(file: str, text: str) -> str:
        path = GOLDEN / file
        if update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {path}; did you forget to run with --update-golden?"
        return path.read_text()

    return accepted
