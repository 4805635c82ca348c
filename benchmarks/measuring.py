"""One network on one device: lowered, proved, one inference counted, its cycles estimated."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cycle_estimate import SIMULATIONS, Estimate
from benchmarks.cycle_estimate import estimate_cycles as simulate_cycles
from benchmarks.random_graphs import random_inputs
from qkd.bits import Bits
from qkd.graph.graph import QuantGraph
from qkd.graph.graph_file import load_graph
from qkd.graph.steps import steps
from qkd.lower.lower import Library, lower
from qkd.passes.graph.plan_memory import PlanMemory
from qkd.proof.device_run import DeviceRun
from qkd.proof.verification import Verification, verify
from qkd.recipe import BudgetSpec
from qkd.target import Target
from qkd.targets.kernels import generic
from qkd.targets.planning import build, plan
from qkd.targets.running.cycle_model import estimate_cycles
from qkd.targets.running.runners import open_runner, run_on

SAMPLES = 4


def load_trained(text: str) -> tuple[Bits, QuantGraph]:
    """Read BITS=FILE, the graph of a finished run."""
    bits, _, path = text.partition("=")
    return Bits.parse(bits), load_graph(Path(path))


def measure_network(graph: QuantGraph, target: Target) -> tuple[Library, Verification, DeviceRun]:
    """Lower a network as `qkd run` does, compare `SAMPLES` random inputs layer by layer, count one inference."""
    budget = BudgetSpec()
    library = build(plan(graph, target, budget), target, budget)
    return library, *prove_and_count(library, random_inputs(graph, SAMPLES))


def prove_and_count(library: Library, inputs: NDArray[np.int8]) -> tuple[Verification, DeviceRun]:
    """Compare every layer with the reference on all inputs, count an inference of the first."""
    with open_runner(library) as runner:
        return verify(library, inputs, runner), runner(inputs[:1], profile=True)


def estimated(run: DeviceRun, target: Target, simulator: str | None) -> Estimate | None:
    """Cycles by llvm-mca where it has the better model and is installed, else by class of instruction."""
    if target.name in SIMULATIONS:
        return simulate_cycles(run, target, simulator) if simulator else None
    layers = estimate_cycles(run, target)
    return (
        None if layers is None else Estimate(sum(layers.values()), layers, sum((run.layer_instructions or {}).values()))
    )


def generic_instructions(graph: QuantGraph, target: Target) -> int | None:
    """Count one inference with the generic kernels alone: what a device without kernels of its own would need."""
    ops = steps(graph)
    kernels = [kernel for op in ops for kernel in generic.kernels(graph, op, target)]
    scratch_bytes = {kernel.op: kernel.scratch_bytes for kernel in kernels}
    in_place = frozenset(kernel.op for kernel in kernels if kernel.in_place)
    library = lower(PlanMemory(scratch_bytes, in_place)(graph), target, kernels)
    return run_on(library, random_inputs(graph, 1), profile=True).instructions
