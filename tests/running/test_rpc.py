"""Boards over TVM's RPC, against its tracker and servers on loopback: same bits, no doubtful time, no endless wait."""

import os
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.random_graphs import random_inputs, residual_graph
from benchmarks.rpc_servers import LOOPBACK, free_port, running
from qkd.errors import InvariantError, RecipeError, ToolError, UnsupportedOpError
from qkd.graph.graph_file import save_graph
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.proof.device_run import Board
from qkd.proof.verification import verify
from qkd.targets.running import rpc, rpc_model
from qkd.targets.running.rpc import BoardAddress, parse_address, tracker_keys
from qkd.targets.running.rpc_model import REPEATS, WARM_UP, latencies
from qkd.targets.running.runners import open_board
from tests.support.command_line import qkd
from tests.support.rpc_network import DIRECT, KEYS
from tests.support.stub_library import device_or_skip, portable_library, stub_graph, stub_library

pytestmark = pytest.mark.device

Boards = dict[str, BoardAddress]

INPUTS = random_inputs(stub_graph(), 3)
SLOW_LAYER = "for (volatile int i = 0; i < 100000; i++) {}"


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boards]:
    """Addresses of boards by key."""
    pytest.importorskip("tornado", reason="TVM's tracker needs it: pip install 'qkd[rpc]'")
    ports = [free_port() for _ in range(2 + len(KEYS))]
    tracker = BoardAddress(LOOPBACK, ports[0], "", tracker=True)
    command = (sys.executable, "-m", "tests.support.rpc_network", *map(str, ports))
    log = tmp_path_factory.mktemp("logs") / "network.txt"
    with running(command, lambda: tracker_keys(tracker) == sorted(KEYS), log):
        direct = BoardAddress(LOOPBACK, ports[1], DIRECT, tracker=False)
        yield {DIRECT: direct, **{key: replace(tracker, key=key) for key in KEYS}}


@pytest.mark.parametrize("way", ["host", DIRECT])
def test_a_network_with_every_operator_computes_on_a_board_what_the_reference_means(boards: Boards, way: str) -> None:
    graph = PlanMemory()(residual_graph(seed=3))
    library = portable_library(device_or_skip("host"), graph)
    with open_board(library, boards[way]) as run:
        proof = verify(library, random_inputs(graph, 5), run)
    assert proof.elements > 5000
    assert proof.differing == 0, proof.first_difference


def test_the_command_line_profiles_on_a_board_whose_key_is_the_devices_name(boards: Boards, tmp_path: Path) -> None:
    device_or_skip("host")
    save_graph(PlanMemory()(residual_graph(seed=1)), tmp_path / "graph.safetensors")
    place = f"{boards['host'].host}:{boards['host'].port}"
    options = ("--device", "host", "--runner", "rpc", "--tracker", place, "--images", "3")
    done = qkd("profile", "graph.safetensors", *options, folder=tmp_path)
    assert done.returncode == 0
    assert "conv_0" in done.stdout
    assert re.search(r"^0 of [1-9][\d,]+ elements differ$", done.stdout, re.MULTILINE)


def test_a_board_that_does_not_prove_to_be_one_gets_no_times(boards: Boards) -> None:
    with open_board(stub_library(device_or_skip("host")), boards["host"]) as runner:
        run = runner(INPUTS, profile=True)
    assert run.board is not None
    assert "Linux" in run.board.description
    assert (run.latency_us is None) == (run.board.emulated is not False)
    assert os.uname().machine == "aarch64" or run.board.emulated is None
    assert run.stack_bytes is not None
    assert 0 < run.stack_bytes < 1024


def test_a_real_board_times_the_whole_and_each_layer(boards: Boards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rpc_model, "identify", lambda read, counter_hz: Board("a test's word for it", False, "for the test")
    )
    with open_board(stub_library(device_or_skip("host"), SLOW_LAYER), boards["host"]) as runner:
        run = runner(INPUTS, profile=True)
    assert run.latency_us is not None
    assert run.layer_latency_us is not None
    assert list(run.layer_latency_us) == ["max_0", "max_1"]
    assert run.layer_latency_us["max_0"] < run.layer_latency_us["max_1"] / 5
    assert run.latency_us > run.layer_latency_us["max_1"] / 5
    np.testing.assert_array_equal(run.outputs.reshape(INPUTS.shape), INPUTS)


def test_marks_of_the_clock_become_medians_without_the_cost_of_a_mark() -> None:
    row_ns = [0, 10, 100, 2110, 3000, 3510, 4000, 4005]  # around nothing, an inference, and two layers
    late_ns = [0, 10, 100, 900_000, 3000, 800_000, 4000, 700_000]
    marks_ns = np.array([late_ns] * WARM_UP + [row_ns] * (REPEATS - 1) + [late_ns], np.uint64)
    assert latencies(stub_graph(), marks_ns.reshape(-1)) == (2.0, {"max_0": 0.5, "max_1": 0.0})


def test_a_model_that_writes_outside_its_arena_is_found_out(boards: Boards) -> None:
    library = stub_library(device_or_skip("host"), "((volatile uint8_t *)context->arena)[-1] = 1;")
    with open_board(library, boards["host"]) as run, pytest.raises(InvariantError, match="wrote outside its arena"):
        run(INPUTS)


def test_a_library_of_another_architecture_is_refused_with_what_to_do(boards: Boards) -> None:
    other = "cortex_a53" if os.uname().machine != "aarch64" else "cortex_m4"
    library = stub_library(device_or_skip(other))
    with (
        pytest.raises((ToolError, UnsupportedOpError), match=r"name the --device|runs no Linux"),
        open_board(library, boards["host"]),
    ):
        pass


def test_a_board_without_an_operating_system_is_refused(boards: Boards) -> None:
    library = stub_library(device_or_skip("cortex_m4"))
    with pytest.raises(UnsupportedOpError, match="cortex_m4 runs no Linux"), open_board(library, boards["host"]):
        pass


def test_an_unknown_key_is_answered_with_the_known_ones(boards: Boards) -> None:
    library = stub_library(device_or_skip("host"))
    address = replace(boards["host"], key="raspberry")
    with pytest.raises(ToolError, match=r"no board with key 'raspberry'; it has .*host"), open_board(library, address):
        pass


def test_a_wrong_key_of_a_server_is_refused(boards: Boards) -> None:
    library = stub_library(device_or_skip("host"))
    with (
        pytest.raises(ToolError, match="key=client:raspberry"),
        open_board(library, replace(boards[DIRECT], key="raspberry")),
    ):
        pass


def test_a_tracker_that_does_not_run_is_named_with_the_way_to_start_it() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = BoardAddress("127.0.0.1", closed.getsockname()[1], "host", tracker=True)
        with pytest.raises(ToolError, match=r"cannot be reached.*python -m tvm.exec.rpc_tracker --host 127.0.0.1"):
            open_board(stub_library(device_or_skip("host")), address).__enter__()


@pytest.mark.parametrize("way", [True, False])
def test_something_else_on_the_port_is_not_waited_for(way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "CONNECT_LIMIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = BoardAddress("127.0.0.1", silent.getsockname()[1], "host", tracker=way)
        with pytest.raises(ToolError, match=r"connecting to .*no answer within 0.5 s"):
            open_board(stub_library(device_or_skip("host")), address).__enter__()


@pytest.mark.parametrize("text", ["9190", ":9190", "host:", "host:port", "host:0", "host:70000"])
def test_an_address_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(RecipeError, match="write HOST:PORT"):
        parse_address(text, "host", tracker=True)


def test_an_address_may_be_of_the_sixth_version() -> None:
    assert parse_address("[::1]:9190", "host", tracker=True) == BoardAddress("::1", 9190, "host", tracker=True)


def test_a_board_that_falls_silent_is_not_waited_for(boards: Boards) -> None:
    library = stub_library(device_or_skip("host"), "extern unsigned sleep(unsigned); sleep(1000);")
    with open_board(library, boards["silent"]) as run:
        run._model._session.limit_s = 0.5  # after linking and loading, which may take longer on a busy machine
        with pytest.raises(ToolError, match=r"no answer within 0\.5 s"):
            run(INPUTS)


def test_a_board_that_dies_in_the_middle_is_reported(boards: Boards) -> None:
    # The last test that connects: with its session TVM's server dies, and takes the others' working folder along.
    library = stub_library(device_or_skip("host"), "__builtin_trap();")
    with (
        open_board(library, boards["dying"]) as run,
        pytest.raises(ToolError, match=r"running a model on tracker(?s:.)*start it again"),
    ):
        run(INPUTS)
