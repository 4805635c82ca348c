"""What fusing residual adds into convolutions saves, and what fusing pools could save at most.

`python -m benchmarks.fusing` lowers each network twice, as the device has it best and with every operator apart, proves
both in the emulator and writes results/fusing.json (about ten minutes). A pool's own instructions bound what fusing it
could save: each store that went would become an addition at least, and the tensor that went does not decide the arena.
"""

import argparse
from typing import Any

from benchmarks.lowering import lowered
from benchmarks.measuring import prove_and_count
from benchmarks.networks import NETWORKS
from benchmarks.random_graphs import random_inputs
from benchmarks.record import write_record
from qkd.bits import Bits
from qkd.graph.graph import AveragePool2d, Conv2dAdd, QuantGraph
from qkd.target import Target
from qkd.targets import load_target
from qkd.targets.kernels import choose_kernels

CORES = ("cortex_m0plus", "cortex_m4", "cortex_m7", "cortex_m55", "cortex_a53")
RESIDUAL, POOLED = "resnet8", "ds_cnn"
FORMATS = ("W8A8", "W4A8", "ternary-A8")
SAMPLES = 2


def main() -> None:
    """Measure every core, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES)
    rows = []
    for core in parser.parse_args().cores:
        for network, bits in (*((RESIDUAL, text) for text in FORMATS), (POOLED, "W4A8")):
            rows.append(measure(NETWORKS[network](Bits.parse(bits)), load_target(core), bits))
            print(rows[-1], flush=True)
    print(write_record("fusing", rows, samples=SAMPLES))


def measure(graph: QuantGraph, target: Target, bits: str) -> dict[str, Any]:
    """Both libraries of a network on a device: a row of the record."""
    apart, fused = lowered(graph, target, choose_kernels(graph, target)), lowered(graph, target)
    inputs = random_inputs(graph, SAMPLES)
    (proof_apart, run_apart), (proof, run) = (prove_and_count(library, inputs) for library in (apart, fused))
    layers = run_apart.layer_instructions or {}
    return {
        "core": target.name,
        "network": graph.name,
        "bits": bits,
        "fused": [op.name for op in fused.graph.ops if isinstance(op, Conv2dAdd)],
        "instructions_apart": run_apart.instructions,
        "instructions_fused": run.instructions,
        "arena_bytes_apart": apart.graph.arena_bytes,
        "arena_bytes_fused": fused.graph.arena_bytes,
        "flash_bytes_apart": apart.flash_bytes,
        "flash_bytes_fused": fused.flash_bytes,
        "pool_instructions": sum(layers[op.name] for op in graph.ops if isinstance(op, AveragePool2d)),
        "differing": proof_apart.differing + proof.differing,
        "elements": proof_apart.elements + proof.elements,
    }


if __name__ == "__main__":
    main()
