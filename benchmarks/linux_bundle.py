"""The Python module of a Linux bundle on emulated 64-bit Arm boards, with Debian's Python and NumPy's wheel for arm64.

`python -m benchmarks.linux_bundle` writes a bundle of ResNet-8 for each core and format, runs its self-test in Python
there and writes results/linux_bundle.json. `emulated_board.py` makes the board once. Nothing is timed.
"""

import argparse
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.emulated_board import interpreter, make_board
from benchmarks.networks import NETWORKS
from benchmarks.random_graphs import random_inputs
from benchmarks.record import write_record
from qkd.bits import Bits
from qkd.bundle.bundle import BundleFacts, write_bundle
from qkd.errors import InvariantError
from qkd.recipe import BudgetSpec
from qkd.targets import load_target
from qkd.targets.planning import build, plan
from qkd.targets.running.shared_library import shared_library_bytes
from qkd.targets.running.toolchain import run_checked

CORES = ("cortex_a53", "cortex_a72", "cortex_a76", "armv8_6_i8mm")
FORMATS = ("W4A8", "W4A5")
IMAGES = 20
LIMIT_S = 600.0
VERDICT = re.compile(r": (\d+) of (\d+) output elements differ")


def main() -> None:
    """Run every core and format and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES)
    parser.add_argument("--bits", nargs="+", default=FORMATS)
    parser.add_argument("--folder", type=Path, default=Path("runs/emulated_board"), help="where the board is unpacked")
    options = parser.parse_args()
    board, rows = make_board(options.folder), []
    for core in options.cores:
        for bits in options.bits:
            rows.append({"core": core, "network": "resnet8", "bits": bits, **run_bundle(core, bits, board)})
            print(rows[-1], flush=True)
    print(write_record("linux_bundle", rows))


def run_bundle(core: str, bits: str, board: Path) -> dict[str, Any]:
    """Write one bundle and run its Python self-test on the core's emulated board."""
    target, graph, budget = load_target(core), NETWORKS["resnet8"](Bits.parse(bits)), BudgetSpec()
    library = build(plan(graph, target, budget), target, budget)
    shared = shared_library_bytes(library)
    with TemporaryDirectory(prefix="qkd-") as name:
        bundle = write_bundle(
            Path(name) / "bundle", library, random_inputs(graph, IMAGES), None, library.flash_bytes, BundleFacts(bits),
            shared_library=shared,
        )  # fmt: skip
        python = interpreter(board, target.emulator[target.emulator.index("-cpu") + 1])
        printed = run_checked([str(python), "selftest/selftest.py"], f"the self-test on {core}", bundle, LIMIT_S)
    verdict = VERDICT.search(printed)
    if verdict is None:
        raise InvariantError(f"the self-test on {core} gave no verdict: {printed}")
    return {"images": IMAGES, "differing": int(verdict[1]), "elements": int(verdict[2]),
            "shared_library_bytes": len(shared or b"")}  # fmt: skip


if __name__ == "__main__":
    main()
