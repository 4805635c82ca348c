"""`qkd profile`: layers of a graph or a run on a device, in emulation or on a board, and what it refuses."""

import re
from pathlib import Path

import pytest

from benchmarks.random_graphs import residual_graph
from qkd.graph.graph_file import save_graph
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.proof.profile_table import evidence_line
from qkd.proof.profiling import Profile
from tests.support.command_line import qkd
from tests.support.stub_library import device_or_skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with graph.safetensors."""
    place = tmp_path_factory.mktemp("profile")
    save_graph(PlanMemory()(residual_graph(seed=1)), place / "graph.safetensors")
    return place


@pytest.mark.device
def test_each_layer_is_counted_after_every_element_was_compared(folder: Path) -> None:
    device_or_skip("cortex_a53")
    done = qkd("profile", "graph.safetensors", "--device", "cortex_a53", "--images", "2", "--out", "out", folder=folder)
    assert done.returncode == 0
    assert re.search(r"^0 of [1-9][\d,]+ elements differ$", done.stdout, re.MULTILINE)
    for expected in ("conv_0", "fc_9", "instructions"):
        assert expected in done.stdout
    (written,) = (folder / "out").iterdir()
    saved = Profile.load(written)
    assert saved.evidence == "emulated_instructions"
    assert saved.instructions is not None
    assert saved.instructions >= sum(layer.instructions or 0 for layer in saved.layers)


@pytest.mark.device
def test_the_host_compares_and_measures_nothing(folder: Path) -> None:
    device_or_skip("host")
    done = qkd("profile", "graph.safetensors", "--device", "host", folder=folder)
    assert done.returncode == 0
    assert "nothing was measured" in done.stdout
    assert "latency µs" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("nothing",), "RecipeError", "no graph at nothing"),
        ((".",), "RecipeError", "no run in ."),
        (("graph.safetensors", "--key", "pi"), "RecipeError", "add --runner rpc"),
        (("graph.safetensors", "--tracker", "127.0.0.1:1"), "RecipeError", "add --runner rpc"),
        (("graph.safetensors", "--runner", "rpc"), "RecipeError", "either --tracker HOST:PORT or --server"),
        (
            ("graph.safetensors", "--runner", "rpc", "--tracker", "a:1", "--server", "b:1"),
            "RecipeError",
            "either --tracker HOST:PORT or --server",
        ),
        (("graph.safetensors", "--runner", "rpc", "--tracker", "nowhere"), "RecipeError", "write HOST:PORT"),
        (("graph.safetensors", "--runner", "rpc", "--tracker", "127.0.0.1:1"), "ToolError", "cannot be reached"),
        (("graph.safetensors", "--runner", "rpc", "--server", "127.0.0.1:1"), "ToolError", "tvm.exec.rpc_server"),
    ],
)
@pytest.mark.device
def test_bad_input_is_one_message(folder: Path, arguments: tuple[str, ...], kind: str, message: str) -> None:
    device_or_skip("host")
    done = qkd("profile", *arguments, "--device", "host", folder=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(kind)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.device
def test_a_core_without_linux_has_no_rpc(folder: Path) -> None:
    options = ("--runner", "rpc", "--tracker", "127.0.0.1:1", "--device", "cortex_m4")
    done = qkd("profile", "graph.safetensors", *options, folder=folder)
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "UnsupportedOpError")


@pytest.mark.parametrize(
    ("evidence", "says"),
    [
        ("board", "latency: the median of many inferences, one after the other, by the clock of a Pi"),
        ("emulated_board", "no latency: time on an emulated board means nothing. a Pi"),
        ("unidentified_board", "no latency: the board does not prove that it is not emulated. a Pi"),
        (
            "emulated_instructions",
            "instructions: executed ones of one inference, exact, in emulation; no cycles, no latency",
        ),
        (None, "nothing was measured: the host computes what the device computes, and says nothing about its cost"),
    ],
)
def test_a_profile_says_what_it_is_evidence_of(evidence: str | None, says: str) -> None:
    blank = Profile.model_construct(evidence=evidence, board="a Pi")
    assert evidence_line(blank) == says
