"""The driver: the only file that knows the whole order, from a recipe to proved firmware.

    recipe ─► check ─► train ─► freeze ─► plan ─► lower ─► verify ─► profile ─► bundle ─► report

What is finished lies in the run's folder under a hash of all it depends on, so a run that was interrupted, killed or
changed in one place goes on where it can.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkd import parallel, report
from qkd.bits import Bits
from qkd.datasets import Dataset, load_data
from qkd.errors import DoesNotFitError
from qkd.evaluation import evaluate
from qkd.files import write_atomic
from qkd.freeze import freeze
from qkd.graph import QuantGraph
from qkd.graph_file import load_graph, save_graph
from qkd.kernel import Kernel
from qkd.lower import Library, lower
from qkd.machine import describe_machine, package_versions, today
from qkd.passes import build_train_passes
from qkd.passes.fuse_adds import FuseAdds
from qkd.passes.plan_memory import PlanMemory, placed_blocks
from qkd.pipeline import run_passes
from qkd.progress import Reporter
from qkd.proving import ProofTask, prove
from qkd.recipe import BudgetSpec, Recipe, VerifySpec, load_recipe
from qkd.results import BufferFact, DeviceResult, FormatResult, RunResult, layer_facts
from qkd.run_folder import graph_path, model_name, read_run_recipe, weights_path, write_run_recipe
from qkd.student import calibrate, image_batch
from qkd.target import Target
from qkd.targets import load_target
from qkd.targets.board import board_files
from qkd.targets.kernels import choices
from qkd.targets.kernels.choice import Choice
from qkd.targets.kernels.fusing import adds_that_pay
from qkd.targets.runners import open_runner
from qkd.targets.shared_library import shared_library_bytes
from qkd.targets.toolchain import install_hint, missing_tools
from qkd.training_run import check_passes, initial_state, shared_data, train, trained_networks, untrained_student
from qkd.weights_file import save_weights

CALIBRATION_IMAGES = 64
"""Enough for the untrained graph, of which only the shapes matter."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A graph with its place in memory and the kernels that compute it on one device."""

    graph: QuantGraph
    kernels: tuple[Kernel, ...]
    choices: tuple[Choice, ...]
    """What each kernel was chosen from."""

    def buffers(self) -> tuple[BufferFact, ...]:
        """The arena's buffers, as the report draws them."""
        blocks = placed_blocks(self.graph, {k.op: k.scratch_bytes for k in self.kernels})
        return tuple(
            BufferFact(name=b.names[0], offset_bytes=at, size_bytes=b.size_bytes, first=b.first, last=b.last, scratch=s)
            for b, at, s in blocks
        )


def plan(graph: QuantGraph, target: Target, budget: BudgetSpec) -> Plan:
    """Choose kernels and place every buffer, or raise DoesNotFitError; shapes are enough, so it also runs untrained."""
    fuse = FuseAdds(adds_that_pay(graph, target, budget.scratch_bytes))
    found = choices(fuse(graph), target, budget.scratch_bytes)
    kernels = tuple(choice.kernel() for choice in found)
    memory = PlanMemory(
        scratch_bytes={k.op: k.scratch_bytes for k in kernels},
        in_place=frozenset(k.op for k in kernels if k.in_place),
        sram_bytes=_smallest(target.sram_bytes, budget.arena_bytes),
        device=target.name,
    )
    planned = run_passes((fuse, memory), graph)
    _check_flash(sum(c.nbytes for k in kernels for c in k.constants), graph.name, target, budget, "the weights alone")
    return Plan(planned, kernels, found)


def build(planned: Plan, target: Target, budget: BudgetSpec) -> Library:
    """Lower a planned graph for one device, or raise DoesNotFitError."""
    library = lower(planned.graph, target, planned.kernels)
    _check_flash(library.flash_bytes, library.name, target, budget, "code and weights")
    return library


def images_to_verify(target: Target, counts: VerifySpec, available: int) -> int:
    """How many test images a device has to compute; 0 in the recipe is all of them."""
    wanted: int = getattr(counts, target.kind)
    return min(wanted or available, available)


def write_report(folder: Path, result: RunResult) -> Path:
    """Write report.html and return its path."""
    path = folder / "report.html"
    write_atomic(path, report.html(result))
    return path


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _check_flash(need_bytes: int, name: str, target: Target, budget: BudgetSpec, what: str) -> None:
    limit = _smallest(target.flash_bytes, budget.flash_bytes)
    if limit is not None and need_bytes > limit:
        raise DoesNotFitError(
            f"{what} of {name!r} take {need_bytes:,} bytes of flash on {target.name}; {limit:,} are available. "
            "Use fewer weight bits, a narrower student or a larger flash budget."
        )


def compile_recipe(
    path: Path, changes: tuple[str, ...], out: Path | None, reporter: Reporter
) -> tuple[RunResult, Path]:
    """Do the whole run.

    Parameters
    ----------
    path : Path
        The recipe.
    changes : tuple of str
        `key=value` changes to it.
    out : Path or None
        Folder of the run; None: `runs/<name>`.
    reporter : Reporter

    Returns
    -------
    RunResult, Path
        What was found out, and the folder that holds it.

    Raises
    ------
    QkdError
        One of the five, before the first epoch wherever that is possible.
    """
    recipe = load_recipe(path, changes)
    folder = out or Path("runs") / recipe.name
    data = shared_data(recipe, folder)
    if parallel.rank() > 0:  # under torchrun; what follows training is the first rank's
        for bits in recipe.bits:
            train(recipe, build_train_passes(recipe.passes), Bits.parse(bits), folder, reporter, data)
        raise SystemExit(0)
    for line in check_recipe(recipe, data):
        reporter.say(line)
    write_run_recipe(folder, recipe)
    formats = tuple(compile_format(recipe, bits, data, folder, reporter) for bits in recipe.bits)
    result = RunResult(
        recipe_name=recipe.name,
        recipe_path=str(path),
        recipe_text=recipe.model_dump_json(indent=1),
        student=recipe.student.model,
        teacher=recipe.teacher.model,
        data=data.name,
        data_note=data.note,
        test_images=len(data.test),
        date=today(),
        machine=describe_machine(),
        tool_versions=package_versions(),
        formats=formats,
    )
    result.save(folder / "results.json")
    write_report(folder, result)
    return result, folder


def compile_format(recipe: Recipe, bits: str, data: Dataset, folder: Path, reporter: Reporter) -> FormatResult:
    """Train, freeze, and prove one bit format on every device of the recipe."""
    state = train(recipe, build_train_passes(recipe.passes), Bits.parse(bits), folder, reporter, data)
    student = state.student_to_train()
    graph = freeze(student, model_name(recipe.name, bits))
    save_graph(graph, graph_path(folder, bits))
    for name, network in (("teacher", state.teacher), ("student", state.student)):
        save_weights(network, weights_path(folder, bits, name))
    trained = state.student if "student" in state.trained else None
    scores = evaluate(trained, student, graph, data.test, reporter)
    return FormatResult(
        bits=bits,
        graph_sha256=graph.sha256(),
        passes=state.passes,
        history=state.history,
        layers=layer_facts(graph),
        **asdict(scores),
        devices=on_devices(graph, recipe, bits, data, folder, reporter),
    )


def prove_again(folder: Path, reporter: Reporter) -> RunResult:
    """Lower and prove a finished run's graphs with the kernels of today; training and accuracies stay as they were."""
    recipe, result = read_run_recipe(folder), RunResult.load(folder / "results.json")
    data = load_data(recipe.data, folder / "data")
    formats = []
    for found in result.formats:
        graph = load_graph(graph_path(folder, found.bits))
        devices = on_devices(graph, recipe, found.bits, data, folder, reporter)
        formats.append(found.model_copy(update={"devices": devices}))
    result = result.model_copy(update={"formats": tuple(formats), "tool_versions": package_versions()})
    result.save(folder / "results.json")
    write_report(folder, result)
    return result


def on_devices(
    graph: QuantGraph, recipe: Recipe, bits: str, data: Dataset, folder: Path, reporter: Reporter
) -> tuple[DeviceResult, ...]:
    """Lower a graph for every device of the recipe and prove it there."""
    codes = data.test.codes()
    return tuple(_on_device(graph, name, recipe, bits, codes, folder, reporter) for name in recipe.devices)


def _on_device(
    graph: QuantGraph, device: str, recipe: Recipe, bits: str, codes: NDArray[np.int8], folder: Path, reporter: Reporter
) -> DeviceResult:
    target = load_target(device)
    if missing := missing_tools(target):
        return DeviceResult(name=device, description=target.description, skipped=f"{', '.join(missing)} not found")
    planned = plan(graph, target, recipe.budget)
    library = build(planned, target, recipe.budget)
    inputs = codes[: images_to_verify(target, recipe.verify, len(codes))]
    shared = shared_library_bytes(library)
    task = ProofTask(recipe, bits, inputs, planned.buffers(), board_files(target), folder, shared)
    return prove(library, task, open_runner, reporter)


def check_recipe(recipe: Recipe, data: Dataset) -> list[str]:
    """All that can be known before the first epoch: pass order, models, tools, memory; returns what there is to say.

    The untrained student goes through freeze and the memory plan, since both depend on shapes only.
    """
    check_passes(build_train_passes(recipe.passes), trained_networks(recipe))
    targets = [load_target(name) for name in recipe.devices]
    for bits in recipe.bits:
        initial_state(recipe, data, Bits.parse(bits))
        graph = untrained_graph(recipe, bits, data)
        for target in targets:
            plan(graph, target, recipe.budget)
    missing = {target.name: tools for target in targets if (tools := missing_tools(target))}
    return [
        f"{device} is left out: {', '.join(tools)} cannot be found; {install_hint(tools)}"
        for device, tools in missing.items()
    ]


def untrained_graph(recipe: Recipe, bits: str, data: Dataset) -> QuantGraph:
    """The graph of the student's first weights: its shapes are those of the trained one."""
    student = untrained_student(recipe, data.classes, data.input_shape, Bits.parse(bits))
    calibrate(student, image_batch(data.train.images[:CALIBRATION_IMAGES]))
    return freeze(student, model_name(recipe.name, bits))
