"""How a result is written: rows with the command, date, machine and versions that made them."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qkd.base.files import write_atomic
from qkd.base.machine import describe_machine, package_versions, today

RESULTS = Path(__file__).parent / "results"


def write_record(name: str, rows: Sequence[Mapping[str, Any]], **more: Any) -> Path:
    """Write `results/<name>.json` and return its path."""
    record = {
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "date": today(),
        "machine": describe_machine(),
        "tool_versions": package_versions(),
        **more,
        "rows": list(rows),
    }
    path = RESULTS / f"{name}.json"
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    return path


def kept_rows(name: str, rows: Sequence[Mapping[str, Any]], key: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of `results/<name>.json` that `rows` does not measure again; each says its date."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return []
    record, again = json.loads(path.read_text()), {tuple(row.get(k) for k in key) for row in rows}
    old = ({"date": record["date"], **row} for row in record["rows"])
    return [row for row in old if tuple(row.get(k) for k in key) not in again]


def kept_entries(name: str, field: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping of `results/<name>.json` with what this run knows better."""
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()).get(field, {}) if path.exists() else {}
    return {**old, **entries}
