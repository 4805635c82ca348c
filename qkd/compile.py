"""The driver: the only file that knows the whole order, from a recipe to proved firmware.

    recipe ─► check ─► train ─► freeze ─► plan ─► lower ─► verify ─► profile ─► bundle ─► report

What is finished lies in the run's folder under a hash of all it depends on, so a run that was interrupted, killed or
changed in one place goes on where it can.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkd.base.files import write_atomic
from qkd.base.machine import describe_machine, package_versions, today
from qkd.base.progress import Reporter
from qkd.bits import Bits
from qkd.data.datasets import Dataset, load_data
from qkd.data.pixels import image_batch
from qkd.graph.graph import QuantGraph
from qkd.graph.graph_file import load_graph, save_graph
from qkd.passes import build_train_passes
from qkd.proof import report
from qkd.proof.proving import ProofTask, prove
from qkd.proof.results import DeviceResult, FormatResult, RunResult, layer_facts
from qkd.recipe import Recipe, VerifySpec, load_recipe
from qkd.run_folder import graph_path, model_name, read_run_recipe, weights_path, write_run_recipe
from qkd.student.freeze import freeze
from qkd.student.student import calibrate
from qkd.target import Target
from qkd.targets import load_target
from qkd.targets.planning import build, plan
from qkd.targets.running.board import board_files
from qkd.targets.running.runners import open_runner
from qkd.targets.running.shared_library import shared_library_bytes
from qkd.targets.running.toolchain import install_hint, missing_tools
from qkd.train import parallel
from qkd.train.evaluation import evaluate
from qkd.train.training_run import check_passes, initial_state, shared_data, train, trained_networks, untrained_student
from qkd.train.weights_file import save_weights

CALIBRATION_IMAGES = 64
"""Enough for the untrained graph, of which only the shapes matter."""


def images_to_verify(target: Target, counts: VerifySpec, available: int) -> int:
    """How many test images a device has to compute; 0 in the recipe is all of them."""
    wanted: int = getattr(counts, target.kind)
    return min(wanted or available, available)


def write_report(folder: Path, result: RunResult) -> Path:
    """Write report.html and return its path."""
    path = folder / "report.html"
    write_atomic(path, report.html(result))
    return path


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
