"""One network on one device: lowered, proved on random inputs, one inference counted."""

from pathlib import Path

from qkd.bits import Bits
from qkd.device_run import DeviceRun
from qkd.graph import QuantGraph, Reshape
from qkd.graph_file import load_graph
from qkd.lower import Library, lower
from qkd.passes.plan_memory import PlanMemory
from qkd.planning import build, plan
from qkd.recipe import BudgetSpec
from qkd.target import Target
from qkd.targets.kernels import generic
from qkd.targets.runners import open_runner, run_on
from qkd.verification import Verification, verify
from tests.strategies import random_inputs

SAMPLES = 4


def load_trained(text: str) -> tuple[Bits, QuantGraph]:
    """Read BITS=FILE, the graph of a finished run."""
    bits, _, path = text.partition("=")
    return Bits.parse(bits), load_graph(Path(path))


def measure_network(graph: QuantGraph, target: Target) -> tuple[Library, Verification, DeviceRun]:
    """Lower a network as `qkd run` does, compare `SAMPLES` random inputs layer by layer, count one inference."""
    budget = BudgetSpec()
    library = build(plan(graph, target, budget), target, budget)
    inputs = random_inputs(graph, SAMPLES)
    with open_runner(library) as runner:
        return library, verify(library, inputs, runner), runner(inputs[:1], profile=True)


def generic_instructions(graph: QuantGraph, target: Target) -> int | None:
    """Count one inference with the generic kernels alone: what a device without kernels of its own would need."""
    ops = [op for op in graph.ops if not isinstance(op, Reshape)]
    kernels = [kernel for op in ops for kernel in generic.kernels(graph, op, target)]
    scratch_bytes = {kernel.op: kernel.scratch_bytes for kernel in kernels}
    in_place = frozenset(kernel.op for kernel in kernels if kernel.in_place)
    library = lower(PlanMemory(scratch_bytes, in_place)(graph), target, kernels)
    return run_on(library, random_inputs(graph, 1), profile=True).instructions
