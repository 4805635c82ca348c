"""The report: one page with everything inside, dashes where nothing was measured; results survive a round trip."""

import re
from pathlib import Path

import pytest

from qkd.errors import RecipeError
from qkd.graph.arena import BufferFact
from qkd.proof.profiling import LayerProfile, Profile
from qkd.proof.report import html
from qkd.proof.results import DeviceResult, FormatResult, LayerFact, RunResult, rows
from qkd.train.history import HistoryPoint, PassFact


@pytest.fixture
def result() -> RunResult:
    layers = tuple(
        LayerProfile(name=n, kind="Conv2d", variant="generic", macs=9, instructions=i, constant_bytes=4,
                     scratch_bytes=0, output_bytes=8)
        for n, i in (("conv_0", 12000), ("fc_1", 345))
    )  # fmt: skip
    profile = Profile(
        target="cortex_m4", graph_sha256="ab", evidence="emulated_instructions", instructions=12345, text_bytes=900,
        rodata_bytes=334, arena_bytes=512, stack_bytes=None, layers=layers, tool_versions={},
    )  # fmt: skip
    measured = DeviceResult(
        name="cortex_m4", description="a core <with> markup", images=7, elements=700, differing=0, profile=profile,
        buffers=(BufferFact(name="conv_0.y", offset_bytes=0, size_bytes=512, first=0, last=1, scratch=False),),
        reasons={"conv_0": "the only variant"}, firmware="firmware/x",
    )  # fmt: skip
    format_ = FormatResult(
        bits="W4A8", graph_sha256="ab", passes=(PassFact(name="qat", epochs=2, seconds=1.5, validation_top1=90.0),),
        history=(
            HistoryPoint(pass_name="qat", epoch=0, loss=1.0, learning_rate=0.1, validation_top1=80.0),
            HistoryPoint(pass_name="qat", epoch=1, loss=0.5, learning_rate=0.1, validation_top1=None),
        ),
        layers=(LayerFact(name="conv_0", kind="Conv2d", output_shape=(1, 4, 4, 8), weight_format="int4",
                          weight_bytes=36, macs=999),),
        top1_float=91.0, top1_torch=90.5, top1_exact=90.25, top1_integer=90.25, agreement=99.9, agreement_exact=100.0,
        devices=(measured, DeviceResult(name="cortex_m55", description="", skipped="no qemu-system-arm")),
    )  # fmt: skip
    return RunResult(
        recipe_name="tiny", recipe_path="tiny.toml", recipe_text="name = 'tiny'", student="s", teacher="t",
        data="digits", data_note="", test_images=7, date="2026-01-01", machine="x", tool_versions={"qkd": "0"},
        formats=(format_,),
    )  # fmt: skip


def test_a_float_student_that_was_never_trained_has_no_score(result: RunResult) -> None:
    untrained = result.formats[0].model_copy(update={"top1_float": None})
    page = html(result.model_copy(update={"formats": (untrained,)}))
    assert "<tr><td>float student</td><td>–</td><td>–</td></tr>" in page


def test_the_page_refers_to_nothing_outside_itself(result: RunResult) -> None:
    page = html(result)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "<script" not in page


def test_every_picture_is_there(result: RunResult) -> None:
    assert html(result).count('<img src="data:image/svg+xml;base64,') == 4  # loss, accuracy, layers, arena


def test_what_was_not_measured_is_a_dash_and_what_was_skipped_says_why(result: RunResult) -> None:
    page = html(result)
    assert "<td>–</td>" in page
    assert "skipped: no qemu-system-arm" in page


def test_names_from_outside_are_escaped(result: RunResult) -> None:
    assert "a core &lt;with&gt; markup" in html(result)


def test_the_same_results_give_the_same_page(result: RunResult) -> None:
    assert html(result) == html(result)


def test_results_survive_a_round_trip(result: RunResult, tmp_path: Path) -> None:
    result.save(tmp_path / "results.json")
    assert RunResult.load(tmp_path / "results.json") == result


def test_rows_hold_one_line_a_format_and_device(result: RunResult) -> None:
    first, second = rows(result)
    assert (first.core, first.flash_bytes, first.differing, first.elements) == ("cortex_m4", 1234, 0, 700)
    assert (second.core, second.differing, second.skipped) == ("cortex_m55", None, "no qemu-system-arm")


def test_a_missing_or_foreign_results_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no results at"):
        RunResult.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"x": 1}')
    with pytest.raises(RecipeError, match="not a results file of this version"):
        RunResult.load(tmp_path / "bad.json")
