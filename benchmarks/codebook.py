"""What learned points cost on a device: ResNet-8 with its indices or its codes in flash, looked up in two ways.

`python -m benchmarks.codebook --cifar FOLDER` trains learned points on CIFAR-10 as the study does (`--out` may be the
study's folder; the float networks take twenty minutes of two cores, a format three minutes of one), proves each library
in the emulator and writes results/codebook.json. `paper_bytes` is the size that Polino et al. count, Huffman codes and
two floats a bucket; `flash_bytes` are those of the ELF sections. "lookup" multiplies with what it looks up, weight by
weight and pixel by pixel; "indices" looks all weights up first, where that is estimated to be faster; "int8" stores the
codes. Rows of the record that a run does not measure again stay.
"""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cycle_estimate import simulator_version
from benchmarks.lowering import lowered
from benchmarks.measuring import estimated, prove_and_count
from benchmarks.record import kept_rows, write_record
from benchmarks.study import integer_scores, with_weights
from benchmarks.study_arms import as_recipe, cifar, methods
from qkd.base.progress import Silent
from qkd.bits import Bits
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.lower.lower import Library
from qkd.passes import build_train_passes
from qkd.recipe import BudgetSpec
from qkd.student.freeze import freeze
from qkd.student.paper_size import paper_bytes
from qkd.target import Target
from qkd.targets import load_target
from qkd.targets.kernels import generic
from qkd.targets.planning import build, plan
from qkd.train.state import TrainState
from qkd.train.training_run import train

CORES = ("cortex_m0plus", "cortex_m4", "cortex_m55", "cortex_a53", "cortex_a76")
FORMATS = ("W4A8", "W2A8")
NETWORK, METHOD, SEED = "resnet8", "quantization_points", 0
SAMPLES = 4
KEY = ("bits", "core", "in_flash")


def main() -> None:
    """Measure what was asked for and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of the trained networks")
    parser.add_argument("--bits", nargs="+", default=FORMATS)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES)
    parser.add_argument("--llvm-mca", default="llvm-mca-19", help="estimates the cycles of M55 and AArch64")
    options = parser.parse_args()
    simulator = shutil.which(options.llvm_mca)
    rows: list[dict[str, Any]] = []
    for bits in options.bits:
        state = trained(options.cifar, options.out, bits)
        graph = freeze(state.student_to_train(), NETWORK)
        images = state.data.test.codes()[:SAMPLES]
        known = {
            "bits": bits,
            "test": integer_scores(state)["test"],
            "paper_bytes": paper_bytes(state.student_to_train()),
            "snapping": snapping(state),
        }
        for core in options.cores:
            for in_flash, library in _ways(graph, load_target(core)):
                rows.append({**known, "core": core, "in_flash": in_flash, **measure(library, images, simulator)})
                print(rows[-1], flush=True)
    rows = kept_rows("codebook", rows, KEY) + rows
    print(write_record("codebook", rows, samples=SAMPLES, estimator=simulator and simulator_version(simulator)))


def trained(folder: Path, out: Path, bits: str) -> TrainState:
    """The study's student with learned points, trained or read back."""
    setting = with_weights(cifar(folder, NETWORK), out)
    recipe = as_recipe(setting, methods(setting, bits)[METHOD], bits, SEED)
    return train(recipe, build_train_passes(recipe.passes), Bits.parse(bits), out / NETWORK, Silent())


def snapping(state: TrainState) -> str:
    """What the pass said its levels lost on the int8 grid."""
    note = next(fact.note for fact in state.passes if fact.name == METHOD)
    return str(note).partition(";")[0].partition(": ")[2]


def _ways(graph: QuantGraph, target: Target) -> Iterator[tuple[str, Library]]:
    """What lies in flash, and a library that has it there."""
    budget = BudgetSpec()
    best = plan(graph, target, budget)
    yield "indices", build(best, target, budget)
    ops = steps(best.graph)
    lookup = [
        next(iter(generic.kernels(best.graph, op, target))) if kernel.variant.startswith("codebook_") else kernel
        for op, kernel in zip(ops, best.kernels, strict=True)
    ]
    yield "indices, lookup", lowered(best.graph, target, lookup)
    plain = {n: value if value.codebook is None else value.without_codebook() for n, value in graph.values.items()}
    yield "int8", build(plan(replace(graph, values=plain), target, budget), target, budget)


def measure(library: Library, images: NDArray[np.int8], simulator: str | None) -> dict[str, Any]:
    """Prove a library on images and count one inference."""
    proof, run = prove_and_count(library, images)
    cycles = estimated(run, library.target, simulator)
    return {
        "instructions": run.instructions,
        "cycles_estimate": cycles and cycles.cycles,
        "flash_bytes": library.flash_bytes,
        "arena_bytes": library.graph.arena_bytes,
        "variants": [kernel.variant for kernel in library.kernels],
        "differing": proof.differing,
        "elements": proof.elements,
    }


if __name__ == "__main__":
    main()
