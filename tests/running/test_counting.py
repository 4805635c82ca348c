"""Counting: the plugin is built once, its text is read back, and marks become figures."""

from pathlib import Path

import pytest

from benchmarks.random_graphs import random_inputs
from qkd.errors import InvariantError, ToolError
from qkd.targets.running import counting
from qkd.targets.running.counting import Mark, plugin, read_counts, read_marks, symbol_address
from qkd.targets.running.hotspots import annotated_listing
from qkd.targets.running.image import build_image
from qkd.targets.running.runners import run_on
from tests.support.stub_library import device_or_skip, stub_graph, stub_library

WRITTEN = (
    "mark 100\n1000 100\nmark 107\n1000 7\n"  # around nothing: marks cost 7
    "mark 110\nmark 1120\n2000 1010\n"  # the whole: 1,003
    "mark 1200\nmark 1307\n2000 40\n2004 67\n"  # first layer: 100
    "mark 1310\nmark 1517\n3000 207\n"  # second layer: 200
)


def test_marks_hold_the_total_and_what_was_executed_since_the_last_one(tmp_path: Path) -> None:
    (tmp_path / "counts.txt").write_text("mark 12\n8000 5\n80fe 7\nmark 20\n8000 8\n")
    assert read_marks(tmp_path / "counts.txt") == (Mark(12, {0x8000: 5, 0x80FE: 7}), Mark(20, {0x8000: 8}))


def test_what_marks_cost_is_taken_off_every_figure(tmp_path: Path) -> None:
    (tmp_path / "counts.txt").write_text(WRITTEN)
    counts = read_counts(stub_graph(), tmp_path / "counts.txt")
    assert counts.instructions == 1003
    assert counts.layer_instructions == {"max_0": 100, "max_1": 200}
    assert counts.executed == {"max_0": {0x2000: 40, 0x2004: 67}, "max_1": {0x3000: 207}}


def test_a_run_that_misses_a_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "counts.txt").write_text(WRITTEN.rsplit("mark", 1)[0])
    with pytest.raises(InvariantError, match="'stub' has 2 layers, but one run set 7 marks"):
        read_counts(stub_graph(), tmp_path / "counts.txt")


@pytest.mark.device
def test_the_plugin_is_built_into_the_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device_or_skip("host")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build = counting.plugin.__wrapped__
    path = build()
    assert path.parent == tmp_path / "qkd"
    built = path.stat().st_mtime_ns
    assert build() == path
    assert path.stat().st_mtime_ns == built


@pytest.mark.device
def test_a_cache_folder_that_cannot_be_written_is_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_or_skip("host")
    (tmp_path / "qkd").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ToolError, match="cannot write"):
        counting.plugin.__wrapped__()


@pytest.mark.device
def test_the_mark_is_found_without_its_thumb_bit(tmp_path: Path) -> None:
    image = build_image(stub_library(device_or_skip("cortex_m4")), tmp_path)
    assert symbol_address(image, "harness_mark") % 2 == 0
    with pytest.raises(InvariantError, match="no symbol 'harness_marc'"):
        symbol_address(image, "harness_marc")


@pytest.mark.device
@pytest.mark.parametrize("name", ["cortex_a53", "cortex_m4"])
def test_a_listing_shows_each_executed_instruction_of_a_layer_with_its_count(name: str) -> None:
    target = device_or_skip(name)
    library = stub_library(target, '__asm__ volatile(".rept 50\\n\\tnop\\n\\t.endr");')
    run = run_on(library, random_inputs(stub_graph(), 1), profile=True)
    listing = annotated_listing(run, target, "max_1")
    assert sum(line.startswith("         1  ") and "nop" in line for line in listing.splitlines()) >= 50
    hot = annotated_listing(run, target, "max_1", least=45)
    assert "<second>:" in hot
    assert "nop" not in hot


def test_the_plugin_is_shared_by_everything_in_one_process() -> None:
    device_or_skip("host")
    assert plugin() is plugin()
