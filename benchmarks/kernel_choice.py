"""Whether the choice of kernels agrees with what is counted: every layer by its closest candidates, in the emulator.

`python -m benchmarks.kernel_choice` lowers each network several times, each layer by its best, second best, …
candidate, estimates cycles from what was executed (`targets.cycle_model` on M4, llvm-mca elsewhere) and compares their
order with the order of the cost model. Both are estimates: what is tested is that the simple one ranks as the detailed
one does. `regret_percent` is how much more than the best of the candidates the chosen ones cost over all layers, flash
included at its worth; `agreeing` counts pairs of a layer's candidates, more than `MARGIN` apart, in the same order.
`choosing_ms` and `lowering_ms` are processor time, and say what a cache of choices could save.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.cycle_estimate import SIMULATIONS
from benchmarks.cycle_estimate import estimate_cycles as simulate_cycles
from benchmarks.networks import NETWORKS
from benchmarks.random_graphs import random_inputs
from benchmarks.record import write_record
from qkd.bits import Bits
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.lower.lower import Library, lower
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.proof.device_run import DeviceRun
from qkd.target import Target
from qkd.targets import load_target
from qkd.targets.kernels import choices, offers
from qkd.targets.kernels.candidate import Candidate
from qkd.targets.kernels.choice import Choice, flash_byte_cycles
from qkd.targets.running.cycle_model import estimate_cycles
from qkd.targets.running.runners import open_runner

CORES = ("cortex_m4", "cortex_m55", "cortex_a53")
FORMATS = ("W8A8", "W4A8", "ternary-A8", "W4A4")
CLOSEST = 4
MARGIN = 0.03


def main() -> None:
    """Measure, print the summary and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", nargs="+", default=CORES)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=("resnet8", "ds_cnn"))
    parser.add_argument("--bits", nargs="+", default=FORMATS)
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    rows, layers = [], []
    for core, network, bits in itertools.product(options.cores, options.networks, options.bits):
        row, found = compare(NETWORKS[network](Bits.parse(bits)), load_target(core))
        key = {"core": core, "network": network, "bits": bits}
        rows.append(key | row)
        layers += [key | layer for layer in found]
        print(rows[-1], flush=True)
    if not options.no_record:
        print(write_record("kernel_choice", rows, layers=layers))


def compare(graph: QuantGraph, target: Target) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the closest candidates of every layer; gives the summary, and a row for each layer and candidate."""
    found = choices(graph, target)
    choosing_s, lowering_s = _seconds(graph, target)
    rows = list(_layers(graph, target, found))
    byte_cycles = flash_byte_cycles([tuple(offers(graph, op, target)) for op in _operators(graph)], target)
    by_layer = [[row for row in rows if row["op"] == choice.op] for choice in found]
    best = sum(min(_price(row, byte_cycles) for row in layer) for layer in by_layer)
    taken = sum(_price(layer[0], byte_cycles) for layer in by_layer)
    pairs = [_agree(a, b) for layer in by_layer for a, b in itertools.combinations(layer, 2) if _apart(a, b)]
    return {
        "regret_percent": 100 * (taken / best - 1),
        "pairs": len(pairs),
        "agreeing": sum(pairs),
        "choosing_ms": 1e3 * choosing_s,
        "lowering_ms": 1e3 * lowering_s,
    }, rows


def _seconds(graph: QuantGraph, target: Target) -> tuple[float, float]:
    """Processor time to enumerate and rank all candidates, and to write, lower and compile the chosen ones."""
    begin = time.process_time()
    found = choices(graph, target)
    chosen = time.process_time()
    _lowered(graph, target, [choice.allowed[0] for choice in found])
    return chosen - begin, time.process_time() - chosen


def _layers(graph: QuantGraph, target: Target, found: Sequence[Choice]) -> Iterator[dict[str, Any]]:
    for rank in range(CLOSEST):
        taken = [choice.allowed[min(rank, len(choice.allowed) - 1)] for choice in found]
        run, cycles = _measure(graph, target, taken)
        for choice, candidate in zip(found, taken, strict=True):
            if rank < len(choice.allowed):
                yield {
                    "op": choice.op,
                    "variant": candidate.variant,
                    "cycles_model": candidate.cycles,
                    "cycles_estimate": cycles[choice.op],
                    "instructions": (run.layer_instructions or {})[choice.op],
                    "flash_bytes": candidate.flash_bytes,
                    "scratch_bytes": candidate.scratch_bytes,
                }


def _measure(graph: QuantGraph, target: Target, taken: Sequence[Candidate]) -> tuple[DeviceRun, dict[str, int]]:
    with open_runner(_lowered(graph, target, taken)) as runner:
        run = runner(random_inputs(graph, 1), profile=True)
    if target.name in SIMULATIONS:
        return run, dict(simulate_cycles(run, target).layers)
    return run, estimate_cycles(run, target) or {}


def _lowered(graph: QuantGraph, target: Target, taken: Sequence[Candidate]) -> Library:
    kernels = [candidate.make() for candidate in taken]
    in_place = frozenset(kernel.op for kernel in kernels if kernel.in_place)
    planned = PlanMemory({kernel.op: kernel.scratch_bytes for kernel in kernels}, in_place)(graph)
    return lower(planned, target, kernels)


def _operators(graph: QuantGraph) -> list[Any]:
    return steps(graph)


def _price(row: dict[str, Any], byte_cycles: float) -> float:
    return float(row["cycles_estimate"] + byte_cycles * row["flash_bytes"])


def _apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool(abs(a["cycles_estimate"] / b["cycles_estimate"] - 1) > MARGIN)


def _agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return bool((a["cycles_model"] < b["cycles_model"]) == (a["cycles_estimate"] < b["cycles_estimate"]))


if __name__ == "__main__":
    main()
