"""Instructions and estimated cycles of MLPerf Tiny's shapes on AArch64, beside LiteRT and ONNX Runtime.

`python -m benchmarks.aarch64` runs every core, network and format in qemu-aarch64, compares every element of every
layer with the reference, prints a table and writes results/aarch64.json. Weights are random: they decide which proofs
hold, so formats of few bits are measured with uniform weights, the worst case, and with bell-shaped ones as training
leaves them. `--trained W4A8=runs/x/w4a8/graph.safetensors …` adds rows for networks that were trained and frozen.
`--peers FOLDER` measures LiteRT and ONNX Runtime in the same run; `aarch64_peers.py` tells what the folder holds.
Cycles need llvm-mca 19 (`--llvm-mca`); they are estimates, and no count here is a latency. Rows of the record that a
run does not measure again stay, with their date.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.aarch64_peers import measure_peers, peer_versions
from benchmarks.cycle_estimate import estimate_cycles, simulator_version
from benchmarks.measuring import SAMPLES, load_trained, measure_network
from benchmarks.networks import NETWORKS
from benchmarks.record import kept_entries, kept_rows, write_record
from qkd.base.machine import today
from qkd.bits import Bits
from qkd.graph.graph import QuantGraph, Value
from qkd.lower.lower import Library
from qkd.proof.device_run import DeviceRun
from qkd.proof.verification import Verification
from qkd.target import Target
from qkd.targets import load_target

CORES = ("cortex_a53", "cortex_a72", "cortex_a76", "armv8_6_i8mm")
FORMATS = {
    "resnet8": ("W8A8", "W4A8", "ternary-A8", "W4A4", "W4A5", "ternary-A4", "ternary-A5"),
    "ds_cnn": ("W8A8", "W4A8", "W4A4"),
}
BELL_DEVIATIONS = 3.0  # of a normal distribution within the range of the codes


def main() -> None:
    """Measure what was asked for, print the table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES)
    parser.add_argument("--networks", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    parser.add_argument("--bits", nargs="+", type=Bits.parse, help="formats; each network has its own default")
    parser.add_argument("--trained", nargs="+", default=(), metavar="BITS=FILE", help="graphs of finished runs")
    parser.add_argument("--peers", type=Path, help="folder with an AArch64 Python, the peers' wheels and models")
    parser.add_argument("--llvm-mca", default="llvm-mca-19")
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    trained = [("trained", *load_trained(text)) for text in options.trained]
    rows: list[dict[str, Any]] = []
    tools: dict[str, dict[str, str]] = {}
    for core in options.cores:
        target = load_target(core)
        graphs = [
            found for network in options.networks
            for found in _graphs(network, options.bits or [Bits.parse(text) for text in FORMATS[network]], target)
        ]  # fmt: skip
        for weights, bits, graph in graphs + trained:
            row, run = measure(graph, target, options.llvm_mca)
            key = {"core": core, "network": graph.name, "bits": str(bits), "weights": weights}
            rows.append({**key, "date": today(), **row})
            tools[core] = dict(run.tool_versions)
            print(f"{core} {graph.name} {bits} {weights}: {row['instructions']:,}", flush=True)
        if options.peers:
            found = measure_peers(options.peers, target, options.networks)
            rows += [{"core": core, "date": today(), **row} for row in found]
    Console(width=150).print(_table(rows))
    if not options.no_record:
        peers = kept_entries("aarch64", "peers", peer_versions(options.peers) if options.peers else {})
        tools = kept_entries("aarch64", "device_tools", tools)
        estimator = simulator_version(options.llvm_mca)
        rows = kept_rows("aarch64", rows, ("engine", "core", "network", "bits", "weights")) + rows
        print(write_record("aarch64", rows, device_tools=tools, peers=peers, estimator=estimator, samples=SAMPLES))


def _graphs(network: str, formats: Sequence[Bits], target: Target) -> list[tuple[str, Bits, QuantGraph]]:
    """Uniform weights, and bell-shaped ones where proofs depend on them: few bits on Armv8.0, but not ternary."""
    found = [("uniform", bits, NETWORKS[network](bits)) for bits in formats]
    few = [bits for bits in formats if bits.weight not in ("ternary", 8)]
    shaped = few if target.instruction_set == "armv8.0-a" and network == "resnet8" else []
    return found + [("bell", bits, bell_shaped(NETWORKS[network](bits))) for bits in shaped]


def bell_shaped(graph: QuantGraph) -> QuantGraph:
    """The same network with normally distributed weight codes; only which proofs hold depends on them."""
    rng = np.random.default_rng(0)
    return replace(graph, values={name: _bell(value, rng) for name, value in graph.values.items()})


def _bell(value: Value, rng: np.random.Generator) -> Value:
    if value.data is None:
        return value
    codes = np.rint(rng.normal(0, value.qmax / BELL_DEVIATIONS, value.shape)).clip(-value.qmax, value.qmax)
    return replace(value, data=codes.astype(np.int8))


def measure(graph: QuantGraph, target: Target, llvm_mca: str) -> tuple[dict[str, Any], DeviceRun]:
    """Lower a network, prove its outputs and count one inference; gives a row of the record and the counted run."""
    library, proof, run = measure_network(graph, target)
    return _row(library, proof, run, estimate_cycles(run, target, llvm_mca).cycles), run


def _row(library: Library, proof: Verification, run: DeviceRun, cycles: int) -> dict[str, Any]:
    return {
        "engine": "ours",
        "instructions": run.instructions,
        "cycles_estimate": cycles,
        "text_bytes": library.text_bytes,
        "rodata_bytes": library.rodata_bytes,
        "arena_bytes": library.graph.arena_bytes,
        "scratch_bytes": max(kernel.scratch_bytes for kernel in library.kernels),
        "stack_bytes": run.stack_bytes,
        "graph_sha256": library.graph.sha256(),
        "differing": proof.differing,
        "elements": proof.elements,
        "layers": [
            {"op": k.op, "variant": k.variant, "instructions": (run.layer_instructions or {}).get(k.op)}
            for k in library.kernels
        ],
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a measurement; instructions and estimated cycles in millions."""
    table = Table(title="Executed instructions in qemu-aarch64, one inference, one thread; cycles are an estimate")
    columns: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
        ("core", lambda row: row["core"]),
        ("network", lambda row: row["network"]),
        ("engine", lambda row: row["engine"]),
        ("bits", lambda row: f"{row['bits']} {row.get('weights') or ''}"),
        ("instructions (M)", lambda row: f"{row['instructions'] / 1e6:.3f}"),
        ("cycles (M)", lambda row: "-" if row["cycles_estimate"] is None else f"{row['cycles_estimate'] / 1e6:.3f}"),
        ("arena", lambda row: f"{row['arena_bytes']:,}" if row["arena_bytes"] else "-"),
        ("differing", lambda row: "-" if row["elements"] is None else f"{row['differing']} of {row['elements']:,}"),
    )
    for heading, _ in columns:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    return table


if __name__ == "__main__":
    main()
