"""The command line as a user meets it: a small recipe to proved firmware on the host, and every kind of bad input."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from qkd.bundle.manifest import check_bundle
from qkd.graph.graph_file import load_graph, save_graph
from qkd.proof.results import RunResult
from qkd.proof.verification import LayerVerification, Verification
from qkd.run_folder import graph_path
from tests.support.command_line import qkd

RECIPE = """
name = "small"
bits = ["ternary-A8"]
devices = ["host"]
[data]
name = "digits"
validation = 300
[teacher]
model = "digits_teacher"
[student]
model = "digits_student"
[train]
batch_size = 64
threads = 1
[[passes]]
name = "pretrain"
network = "student"
epochs = 1
[[passes]]
name = "quantize"
norm_batches = 4
[[passes]]
name = "qat"
epochs = 1
[verify]
host = 20
"""


def recipe_with(folder: Path, *changes: tuple[str, str]) -> Path:
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "small.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `qkd run` of the small recipe has been called once."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler: apt install gcc")
    folder = tmp_path_factory.mktemp("run")
    done = qkd("run", recipe_with(folder), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "0 of" in done.stdout
    return folder


def test_a_run_leaves_results_report_graph_and_firmware(finished: Path) -> None:
    out = finished / "runs" / "small"
    (format_,) = RunResult.load(out / "results.json").formats
    (device,) = format_.devices
    assert (device.images, device.differing, format_.agreement_exact) == (20, 0, 100.0)
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert check_bundle(out / str(device.firmware)).graph_sha256 == format_.graph_sha256
    selftest = out / str(device.firmware) / "selftest" / "selftest.py"  # of the host's shared library, in Python
    assert ": 0 of " in subprocess.run([sys.executable, selftest], check=True, capture_output=True, text=True).stdout


def test_a_second_run_trains_and_proves_nothing_again(finished: Path) -> None:
    before = RunResult.load(finished / "runs" / "small" / "results.json")
    done = qkd("run", finished / "small.toml", folder=finished)
    assert done.returncode == 0
    assert "proving" not in done.stdout
    assert "qat" not in done.stdout
    assert RunResult.load(finished / "runs" / "small" / "results.json") == before


def test_verify_proves_a_finished_run_again(finished: Path) -> None:
    done = qkd("verify", "runs/small", "--images", "5", folder=finished)
    assert done.returncode == 0
    assert "ternary-A8 on host: 0 of" in done.stdout


MODEL = "small_ternary_a8"


def flipped(path: Path) -> bytes:
    """Flip a bit in the middle of a file, and return what it held before."""
    before = path.read_bytes()
    at = len(before) // 2
    path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
    return before


@pytest.mark.parametrize(
    "file",
    ["lib/libsmall_ternary_a8.a", "src/small_ternary_a8_weights.c", "golden/outputs.npy", "include/small_ternary_a8.h"],
)
def test_a_flipped_bit_in_a_bundle_is_named_by_verify_and_mended_by_run(finished: Path, file: str) -> None:
    path = finished / "runs" / "small" / "firmware" / f"{MODEL}-host" / file
    before = flipped(path)
    done = qkd("verify", "runs/small", "--images", "5", folder=finished)
    assert done.returncode == 2
    assert f"{file}: changed" in done.stderr
    assert qkd("run", finished / "small.toml", folder=finished).returncode == 0
    assert path.read_bytes() == before


def test_a_library_that_was_deleted_is_written_again(finished: Path) -> None:
    path = finished / "runs" / "small" / "firmware" / f"{MODEL}-host" / "lib" / f"lib{MODEL}.a"
    path.unlink()
    assert qkd("verify", "runs/small", "--images", "5", folder=finished).returncode == 2
    assert qkd("run", finished / "small.toml", folder=finished).returncode == 0
    assert path.exists()


def test_a_graph_that_is_not_the_one_of_the_results_is_found(finished: Path) -> None:
    path = graph_path(finished / "runs" / "small", "ternary-A8")
    before, graph = path.read_bytes(), load_graph(path)
    try:
        save_graph(replace(graph, ops=graph.ops[:-1], outputs=(graph.ops[-2].output,)), path)
        done = qkd("verify", "runs/small", folder=finished)
    finally:
        path.write_bytes(before)
    assert done.returncode == 2
    assert "is not the graph of results.json" in done.stderr


def test_a_negative_number_of_images_proves_nothing_and_is_refused(finished: Path) -> None:
    assert qkd("verify", "runs/small", "--images", "-400", folder=finished).returncode == 2


def test_a_run_on_no_device_at_all_proves_nothing_and_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("qkd.compile.missing_tools", lambda target: ("cc",))
    done = qkd("run", tmp_path / "small.toml", folder=tmp_path)
    assert done.returncode == 4
    assert "nothing was proved" in done.stdout


def test_a_bundle_that_differs_is_set_apart_and_its_failure_is_not_kept(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    out = tmp_path / "runs" / "small"
    for folder in ("proofs", "firmware"):
        shutil.rmtree(out / folder)
    wrong = LayerVerification("conv_0.y", 10, 1, "conv_0.y[0] of sample 0: device 1, reference 2")
    with monkeypatch.context() as patch:
        patch.setattr("qkd.proof.proving.verify", lambda *_: Verification("host", "", 1, (wrong,)))
        assert qkd("run", tmp_path / "small.toml", folder=tmp_path).returncode == 1
    assert not (out / "firmware").exists()
    assert (out / "firmware-refuted" / f"{MODEL}-host" / "manifest.json").exists()
    assert qkd("run", tmp_path / "small.toml", folder=tmp_path).returncode == 0
    assert (out / "firmware" / f"{MODEL}-host" / "manifest.json").exists()


def test_lower_says_which_kernel_was_chosen_and_writes_the_library(finished: Path) -> None:
    graph = "runs/small/ternary-a8/graph.safetensors"
    done = qkd("lower", graph, "--device", "cortex_m4", "-v", "--out", "library", folder=finished)
    assert done.returncode == 0
    assert "conv_0" in done.stdout
    assert "estimated at" in done.stdout
    assert "next generic" in done.stdout
    assert (finished / "library" / "libsmall_ternary_a8.a").read_bytes().startswith(b"!<arch>")


def test_report_is_written_again_byte_for_byte(finished: Path) -> None:
    report = finished / "runs" / "small" / "report.html"
    before = report.read_bytes()
    report.unlink()
    assert qkd("report", "runs/small", folder=finished).returncode == 0
    assert report.read_bytes() == before


def test_list_names_devices_models_and_passes(tmp_path: Path) -> None:
    printed = qkd("list", folder=tmp_path).stdout
    for name in ("cortex_m55", "resnet8", "co_study", "parquet"):
        assert name in printed


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("validation = 300", "validation = 300\nflop = 1", "RecipeError", "data.flop"),
        ('"ternary-A8"', '"W9A8"', "RecipeError", "write W<2..8>A<2..8>"),
        ('name = "qat"', 'name = "quick"', "RecipeError", "known passes: pretrain"),
        ("norm_batches = 4", "norm_batches = -1", "RecipeError", "norm_batches"),
        ('network = "student"', 'network = "teacher"', "RecipeError", "needs “The float student has been trained.”"),
        ('devices = ["host"]', 'devices = ["cortex_m8"]', "RecipeError", "a recipe may name host"),
        ('model = "digits_student"', 'model = "resnet9"', "RecipeError", "unknown model 'resnet9'"),
        ('name = "digits"', 'name = "cifar10"\npath = "nowhere"', "RecipeError", "nowhere"),
        ("[verify]", "[budget]\narena_bytes = 64\n[verify]", "DoesNotFitError", "64 are available"),
        ("[verify]", "[budget]\nflash_bytes = 99\n[verify]", "DoesNotFitError", "99 are available"),
    ],
)
def test_bad_input_is_one_message_before_the_long_work(
    tmp_path: Path, old: str, new: str, kind: str, message: str
) -> None:
    done = qkd("run", recipe_with(tmp_path, (old, new)), folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(kind)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "small" / "passes").exists()


def test_the_module_can_be_run_and_prints_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "qkd", "report", "nothing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no results at" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_says_how_to_go_on() -> None:
    code = (
        "import os, signal, time, qkd.cli as cli\n"
        "cli.app = lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9))\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted; the same command goes on where this one was\n")


def test_a_folder_without_a_run_is_explained(tmp_path: Path) -> None:
    done = qkd("verify", "nothing", folder=tmp_path)
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "RecipeError")


def test_results_hold_only_what_json_can_say(finished: Path) -> None:
    text = (finished / "runs" / "small" / "results.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["formats"][0]["bits"] == "ternary-A8"
