"""Fixtures that several test files share."""

from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`."""
    parser.addoption("--update-golden", action="store_true", help="accept what the tests generate as the golden files")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a generated text with `tests/golden/<file>`, byte for byte."""
    update = request.config.getoption("--update-golden")

    def check(file: str, text: str) -> None:
        path = GOLDEN / file
        if update:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {path}; did you forget to run with --update-golden?"
        assert text == path.read_text(), (
            f"{path} is no longer what is generated: if that was meant, run with --update-golden and say why"
        )

    return check
