"""Boards over TVM's RPC, proved on emulated ones: `python -m benchmarks.rpc RUN` → results/rpc.json.

For each core a board is emulated, TVM's server started on it and its tracker beside it, all on loopback, and a trained
run's graphs go through what `qkd profile --runner rpc` does. Emulated time is no latency, so there is none in the rows.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.emulated_board import make_board, server_command
from benchmarks.record import write_record
from benchmarks.rpc_servers import server, tracker
from qkd.errors import ToolError
from qkd.graph_inputs import graphs_with_inputs
from qkd.lower.lower import Library
from qkd.proof.profiling import profile
from qkd.proof.verification import verify
from qkd.targets import load_target
from qkd.targets.planning import build, plan
from qkd.targets.running.rpc import BoardAddress
from qkd.targets.running.runners import open_board
from qkd.targets.running.toolchain import tool_version

DEVICES = ("cortex_a53", "cortex_a72", "cortex_a76", "armv8_6_i8mm")
TOO_NEW = ("cortex_a76", "armv8_6_i8mm")
"""Devices whose instructions the first one's board lacks: their libraries must be refused there."""


def measure(library: Library, codes: Any, address: BoardAddress) -> dict[str, Any]:
    """Prove a library on a board; a library that the board cannot run is a row that says so."""
    row = {"network": library.name, "device": library.target.name, "board": address.key, "runner": "rpc, by tracker"}
    try:
        with open_board(library, address) as run:
            found, cost = verify(library, codes, run), profile(library, run(codes[:1], profile=True))
    except ToolError as error:
        return {**row, "refused": str(error)}
    return {
        **row, "images": found.samples, "differing": found.differing, "elements": found.elements,
        "emulated": cost.evidence == "emulated_board", "evidence": cost.evidence, "latency_us": cost.latency_us,
        "board_says": cost.board,
    }  # fmt: skip


def rows(run: Path, folder: Path, images: int) -> Iterator[dict[str, Any]]:
    """A row for each graph of the run on each device's board, and on the first board for devices it is too old for."""
    make_board(folder)
    with ExitStack() as stack:
        place = stack.enter_context(tracker(folder / "tracker.txt"))
        for device in DEVICES:
            command = server_command(folder, processor(device))
            address = stack.enter_context(server(place, device, folder / f"{device}.txt", command))
            for built in (device, *(TOO_NEW if device == DEVICES[0] else ())):
                target = load_target(built)
                for graph, codes, budget in graphs_with_inputs(run, images):
                    row = measure(build(plan(graph, target, budget), target, budget), codes, address)
                    print(row, flush=True)
                    yield row


def processor(device: str) -> str:
    """QEMU's name of a device's core, from its own emulator."""
    emulator = load_target(device).emulator
    return emulator[emulator.index("-cpu") + 1]


def main() -> None:
    """Measure and write the record."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("run", type=Path, help="folder of a finished run, or a graph")
    options.add_argument("--folder", type=Path, default=Path("runs/emulated_board"), help="where the board is unpacked")
    options.add_argument("--images", type=int, default=400, help="test images; of a graph alone, random inputs")
    chosen = options.parse_args()
    found = list(rows(chosen.run, chosen.folder, chosen.images))
    print(write_record("rpc", found, emulator=tool_version("qemu-aarch64")))


if __name__ == "__main__":
    main()
