"""Instructions, estimated cycles and memory of MLPerf Tiny's shapes on Cortex-M, beside CMSIS-NN's.

`python -m benchmarks.cortex_m` runs every core, network and format in the emulator (about five minutes on two cores),
compares every element of every layer with the reference, prints a table and writes results/cortex_m.json.
Its weights are random: neither instructions nor memory depend on them, but for the proofs that pick wider kernels.
Cycles are estimates: by `targets.cycle_model` for M0+, M4, M7 and M33, by llvm-mca for M55 (None where it is missing).
Cortex-M0+ has no peer here; beside it stands the same network with the generic kernels. QEMU has no Cortex-M0+: its
Cortex-M0, which has the same instructions and refuses all others, executes the code that was compiled for Cortex-M0+.
`--trained W4A8=runs/x/w4a8/graph.safetensors …` adds rows for networks that were trained and frozen. Rows of the record
that a run does not measure again stay, with their date.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cycle_estimate import Estimate, simulator_version
from benchmarks.measuring import SAMPLES, estimated, generic_instructions, load_trained, measure_network
from benchmarks.networks import NETWORKS
from benchmarks.record import kept_entries, kept_rows, write_record
from qkd.base.machine import today
from qkd.bits import Bits
from qkd.graph.graph import QuantGraph
from qkd.lower.lower import Library
from qkd.proof.device_run import DeviceRun
from qkd.proof.verification import Verification
from qkd.target import Target
from qkd.targets import load_target

CORES = ("cortex_m0plus", "cortex_m4", "cortex_m7", "cortex_m33", "cortex_m55")
FORMATS = ("W8A8", "W4A8", "ternary-A8", "W4A4", "ternary-A4")

CONV_9_MACS = 8 * 8 * 64 * 64 * 9

CMSIS_NN: Mapping[tuple[str, str], tuple[int, int]] = {
    ("cortex_m4", "resnet8"): (29_759_000, 51_640_000),
    ("cortex_m4", "ds_cnn"): (7_845_000, 13_973_000),
    ("cortex_m4", "autoencoder"): (579_000, 1_371_000),
    ("cortex_m7", "resnet8"): (29_824_000, 51_755_000),
    ("cortex_m7", "ds_cnn"): (7_761_000, 14_020_000),
    ("cortex_m7", "autoencoder"): (579_000, 1_370_000),
    ("cortex_m33", "resnet8"): (29_790_000, 51_560_000),
    ("cortex_m33", "ds_cnn"): (7_800_000, 13_970_000),
    ("cortex_m33", "autoencoder"): (579_000, 1_370_000),
    ("cortex_m55", "resnet8"): (4_808_000, 7_085_000),
    ("cortex_m55", "ds_cnn"): (1_785_000, 2_552_000),
    ("cortex_m55", "autoencoder"): (147_000, 144_000),
}
"""Instructions of CMSIS-NN 99f736a with 8 and with 4-bit weights: GCC 12.2 -Ofast, counted in the same emulator."""

FOUR_BIT_ACTIVATIONS: Sequence[Mapping[str, Any]] = (
    {
        "idea": "one channel a lane (the kernel of 8-bit activations), W4, 2x2 tile",
        "instructions_per_mac": 15 / 16,
        "of": "4 taps, 16 products: 2 LDRD, 1 LDR, 4 AND, 8 SMLAD",
        "variant": "smlad_rows_w4_",
    },
    {
        "idea": "two channels share a lane, W4, 2x4 tile",
        "instructions_per_mac": 16 / 32,
        "of": "4 taps, 32 products: 2 LDRD, 2 LDR, 4 AND, 8 SMLAD; 12-bit lower sums: at worst 18 taps a run",
        "variant": "smlad_rows_w4x2_",
    },
    {
        "idea": "two channels share a lane, 2 bits or ternary, 2x4 tile",
        "instructions_per_mac": 15 / 32,
        "of": "4 taps, 32 products: 2 LDRD, 1 LDR, 4 AND, 8 SMLAD; 14-bit lower sums: at worst 364 taps a run",
        "variant": "smlad_rows_w2x2_",
    },
    {
        "idea": "two pixels share a lane, W4 in the top bits, 4x2 tile",
        "instructions_per_mac": 15 / 32,
        "of": "as above, but 10 bits are left for the lower sum: at worst 9 taps a run; not built",
        "variant": None,
    },
    {
        "idea": "polynomials of 3 taps by UMLAL, ternary, 2x2 tile, stride 1",
        "instructions_per_mac": (4 + 4 + 4 * 15 / 11) / 36,
        "of": "3 taps, 36 products: 4 loads, 4 UMLAL, 15 to take five 10-bit sums out, after 11 turns; not built",
        "variant": None,
    },
    {
        "idea": "polynomials of 3 taps by UMLAL, W4",
        "instructions_per_mac": (4 + 4 + 4 * 15) / 36,
        "of": "the same, but 10-bit sums hold one product of 4-bit weights: taken out each time",
        "variant": None,
    },
    {
        "idea": "tables of 27 entries in 16-bit lanes (the kernel of 8-bit activations), ternary",
        "instructions_per_mac": 4 / 12,
        "of": "3 taps of 4 pixels: UXTAB, LDRD, 2 QADD16; tables and outputs not included",
        "variant": "lookup_int16",
    },
    {
        "idea": "tables of 27 entries in 8-bit lanes, ternary",
        "instructions_per_mac": 10 / 48,
        "of": "6 taps of 8 pixels: 2 UXTAB, 2 LDRD, 2 SADD8, 4 SXTAB16, as a lane holds two sums of 3 codes; not built",
        "variant": None,
    },
)
"""What 4-bit activations could gain on Cortex-M4: instructions of the innermost step, from the instruction set.

On Cortex-M55 nothing: VMLADAVA multiplies bytes, whatever they hold.
"""


def main() -> None:
    """Measure what was asked for, print the table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=CORES)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    parser.add_argument("--bits", nargs="+", type=Bits.parse, default=[Bits.parse(text) for text in FORMATS])
    parser.add_argument("--trained", nargs="+", default=(), metavar="BITS=FILE", help="graphs of finished runs")
    parser.add_argument("--llvm-mca", default="llvm-mca-19", help="estimates the cycles of M55")
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    simulator = shutil.which(options.llvm_mca)
    graphs = [("random", bits, NETWORKS[network](bits)) for network in options.networks for bits in options.bits]
    graphs += [("trained", *load_trained(text)) for text in options.trained]
    rows, tools = [], {}
    for core in options.cores:
        for weights, bits, graph in graphs:
            row, run = measure(graph, load_target(core), simulator)
            key = {"core": core, "network": graph.name, "bits": str(bits), "weights": weights}
            rows.append({**key, "date": today(), **row})
            tools[core] = dict(run.tool_versions)
            print(f"{core} {graph.name} {bits} ({weights} weights): {row['instructions']:,}", flush=True)
    Console(width=160).print(_table(rows))
    if not options.no_record:
        version = simulator_version(simulator) if simulator else None
        rows = kept_rows("cortex_m", rows, ("core", "network", "bits", "weights")) + rows
        tools = kept_entries("cortex_m", "device_tools", tools)
        print(write_record("cortex_m", rows, device_tools=tools, estimator=version, samples=SAMPLES,
                           cmsis_nn=_comparison(), four_bit_activations=_floors(rows)))  # fmt: skip


def measure(graph: QuantGraph, target: Target, simulator: str | None) -> tuple[dict[str, Any], DeviceRun]:
    """Lower a network, prove its outputs and count one inference; gives a row of the record and the counted run."""
    library, proof, run = measure_network(graph, target)
    has_peer = any(core == target.name for core, _ in CMSIS_NN)
    generic = None if has_peer else generic_instructions(graph, target)
    return {**_row(library, proof, run, estimated(run, target, simulator)), "generic_instructions": generic}, run


def _row(library: Library, proof: Verification, run: DeviceRun, cycles: Estimate | None) -> dict[str, Any]:
    return {
        "instructions": run.instructions,
        "cycles_estimate": cycles and cycles.cycles,
        "estimate_covers_instructions": cycles and cycles.covered_instructions,
        "text_bytes": library.text_bytes,
        "rodata_bytes": library.rodata_bytes,
        "arena_bytes": library.graph.arena_bytes,
        "scratch_bytes": max(kernel.scratch_bytes for kernel in library.kernels),
        "stack_bytes": run.stack_bytes,
        "graph_sha256": library.graph.sha256(),
        "differing": proof.differing,
        "elements": proof.elements,
        "layers": [
            {
                "op": kernel.op,
                "variant": kernel.variant,
                "instructions": (run.layer_instructions or {}).get(kernel.op),
                "cycles_estimate": cycles and cycles.layers[kernel.op],
                "scratch_bytes": kernel.scratch_bytes,
            }
            for kernel in library.kernels
        ],
    }


def _comparison() -> list[dict[str, Any]]:
    return [
        {"core": core, "network": network, "instructions_s8": s8, "instructions_s4": s4}
        for (core, network), (s8, s4) in CMSIS_NN.items()
    ]


def _floors(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ideas, and what was counted of those that are kernels: ResNet-8's convolution of 64 x 64 channels on M4."""
    layers = [
        layer for row in rows if row["core"] == "cortex_m4" and row["network"] == "resnet8" for layer in row["layers"]
        if layer["op"] == "conv_9"
    ]  # fmt: skip
    found = []
    for idea in FOUR_BIT_ACTIVATIONS:
        counted = [x["instructions"] for x in layers if idea["variant"] and x["variant"].startswith(idea["variant"])]
        found.append({**idea, "counted_per_mac": counted[0] / CONV_9_MACS if counted else None})
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a core, network and format; instructions and estimated cycles in millions, memory in bytes."""
    table = Table(title="Instructions counted in the emulator; cycles are an estimate without wait states")
    for heading in ("core", "network", "bits"):
        table.add_column(heading)
    for heading in ("CMSIS-NN s8 / s4, or generic (M)", "instructions (M)", "cycles (M)", "text", "rodata", "arena",
                    "scratch", "differing"):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in rows:
        vendor = CMSIS_NN.get((row["core"], row["network"]))
        cycles = row["cycles_estimate"]
        sizes = (f"{row[name]:,}" for name in ("text_bytes", "rodata_bytes", "arena_bytes", "scratch_bytes"))
        network = row["network"] + (", trained" if row["weights"] == "trained" else "")
        generic = row.get("generic_instructions")
        counts = " / ".join(f"{count / 1e6:.2f}" for count in vendor or ([generic] if generic else [])) or "-"
        table.add_row(row["core"], network, row["bits"], counts, f"{row['instructions'] / 1e6:.3f}",
                      "-" if cycles is None else f"{cycles / 1e6:.3f}", *sizes,
                      f"{row['differing']} of {row['elements']:,}")  # fmt: skip
    return table


if __name__ == "__main__":
    main()
