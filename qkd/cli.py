"""The command line: few verbs, no knobs; what a run depends on stands in its recipe."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console

from qkd.base.files import disk_error
from qkd.base.progress import Bars
from qkd.errors import QkdError

app = typer.Typer(
    help="A distillation compiler for low-bit neural networks on Arm: what is trained is what runs, bit for bit.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
)  # fmt: skip
console = Console()

DIFFERS, NOTHING_PROVED = 1, 4
"""Exit statuses beside 0, proved, and 2, an error that says what to do."""

RecipePath = Annotated[Path, typer.Argument(help="A recipe, for example benchmarks/recipes/digits.toml.")]
Changes = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: train.seed=1 'bits=[\"W4A4\"]'.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; the default is runs/<recipe's name>.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
Runner = Literal["emulator", "rpc"]
Device = Annotated[str, typer.Option(help="A device that `qkd list` names.")]


@app.command()
def run(recipe: RecipePath, changes: Changes = None, out: Out = None) -> None:
    """Train, freeze, lower, prove, profile and bundle; interrupted, it goes on where it was."""
    from qkd.compile import compile_recipe
    from qkd.proof.report import table

    result, folder = compile_recipe(recipe, tuple(changes or ()), out, Bars(console))
    Console(width=max(console.width, 150)).print(table(result))
    _say(f"report: {folder / 'report.html'}\nfirmware: {folder / 'firmware'}")
    devices = [device for format_ in result.formats for device in format_.devices]
    if any(device.differing for device in devices) or any(f.agreement_exact < 100 for f in result.formats):
        raise typer.Exit(DIFFERS)
    if all(device.skipped for device in devices):
        _say("nothing was proved: no device could be run")
        raise typer.Exit(NOTHING_PROVED)


@app.command()
def check(recipe: RecipePath, changes: Changes = None) -> None:
    """Check all that can be known before the first epoch: recipe, pass order, data, tools, memory."""
    from qkd.compile import check_recipe
    from qkd.data.datasets import load_data
    from qkd.recipe import load_recipe

    wanted = load_recipe(recipe, tuple(changes or ()))
    for line in check_recipe(wanted, load_data(wanted.data, Path("runs") / wanted.name / "data")):
        _say(line)
    _say(f"{wanted.name}: nothing known stands in the way of {', '.join(wanted.bits)} on {', '.join(wanted.devices)}")


@app.command()
def lower(
    graph: Annotated[Path, typer.Argument(help="A frozen graph: graph.safetensors of a run.")],
    device: Device,
    out: Annotated[Path | None, typer.Option(help="Write the static library and its header here.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say which kernels were chosen, and why.")] = False,
) -> None:
    """Lower a frozen graph for one device and say what it takes."""
    from qkd.base.files import write_atomic
    from qkd.bundle.archive import archive
    from qkd.bundle.header import c_header
    from qkd.graph.graph_file import load_graph
    from qkd.recipe import BudgetSpec
    from qkd.targets import load_target
    from qkd.targets.planning import build, plan

    target, budget = load_target(device), BudgetSpec()
    planned = plan(load_graph(graph), target, budget)
    library = build(planned, target, budget)
    _say(
        f"{library.name} on {device}: {library.text_bytes:,} bytes of code, {library.rodata_bytes:,} of constants, "
        f"{library.graph.arena_bytes:,} of arena"
    )
    for choice, kernel in zip(planned.choices, planned.kernels, strict=True) if verbose else ():
        _say(f"  {kernel.op:<24} {kernel.variant:<28} {kernel.scratch_bytes:>7,} scratch  {kernel.why}")
        for line in choice.lines():
            _say(f"  {'':<24} {line}")
    if out is not None:
        write_atomic(out / f"lib{library.name}.a", archive(library.objects))
        write_atomic(out / f"{library.name}.h", c_header(library.name, library.graph, None, library.flash_bytes))
        _say(f"written: {out}")


@app.command()
def verify(
    folder: RunFolder,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    images: Annotated[int, typer.Option(min=0, help="Test images; 0 is the whole test split.")] = 0,
) -> None:
    """Prove again that the devices compute what was trained: every element of every layer, tolerance 0."""
    from qkd.data.datasets import load_data
    from qkd.graph.graph_file import load_graph
    from qkd.proof.run_check import check_run
    from qkd.proof.verification import verify as compare
    from qkd.run_folder import graph_path, read_run_recipe
    from qkd.targets import load_target
    from qkd.targets.planning import build, plan
    from qkd.targets.running.runners import open_runner

    recipe = read_run_recipe(folder)
    check_run(folder)
    codes = load_data(recipe.data, folder / "data").test.codes()[: images or None]
    differing = 0
    for bits in recipe.bits:
        graph = load_graph(graph_path(folder, bits))
        for target in map(load_target, [device] if device else recipe.devices):
            library = build(plan(graph, target, recipe.budget), target, recipe.budget)
            title = f"{bits} on {target.name}: verifying"
            with open_runner(library) as run, Bars(console).task(title, len(codes)) as advance:
                found = compare(library, codes, run, advance)
            where = f"; first: {found.first_difference}" if found.first_difference else ""
            _say(f"{bits} on {target.name}: {found.differing:,} of {found.elements:,} elements differ{where}")
            differing += found.differing
    if differing:
        raise typer.Exit(1)


@app.command()
def profile(
    source: Annotated[Path, typer.Argument(help="The folder of a run, or a graph: graph.safetensors of a run.")],
    device: Device,
    runner: Annotated[Runner, typer.Option(help="Where: in the emulator, or on a board over TVM's RPC.")] = "emulator",
    tracker: Annotated[str | None, typer.Option(help="HOST:PORT of a tracker that knows boards by key.")] = None,
    server: Annotated[str | None, typer.Option(help="HOST:PORT of one board's server, without a tracker.")] = None,
    key: Annotated[str | None, typer.Option(help="The board's key; the default is the device's name.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Inputs to compare: test images of a run, else random.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Write each profile here as JSON.")] = None,
) -> None:
    """Say what each layer costs on a device or a board, after comparing every element with the reference."""
    from qkd.graph_inputs import graphs_with_inputs
    from qkd.proof.profile_table import evidence_line, profile_table
    from qkd.proof.profiling import profile as put_together
    from qkd.proof.verification import verify as compare
    from qkd.targets import load_target
    from qkd.targets.planning import build, plan
    from qkd.targets.running.runners import choose_runner

    target, differing = load_target(device), 0
    open_on = choose_runner(target, runner, tracker, server, key)
    for graph, codes, budget in graphs_with_inputs(source, images):
        library = build(plan(graph, target, budget), target, budget)
        with open_on(library) as run:
            found = compare(library, codes, run)
            cost = put_together(library, run(codes[:1], profile=True))
        Console(width=max(console.width, 120)).print(profile_table(library.name, cost))
        _say(f"{evidence_line(cost)}\n{found.differing:,} of {found.elements:,} elements differ")
        differing += found.differing
        if out is not None:
            cost.save(out / f"{library.name}-{target.name}.json")
    if differing:
        raise typer.Exit(1)


@app.command()
def report(folder: RunFolder) -> None:
    """Write the HTML report of a finished run again."""
    from qkd.compile import write_report
    from qkd.proof.results import RunResult

    _say(str(write_report(folder, RunResult.load(folder / "results.json"))))


@app.command("list")
def list_() -> None:
    """Name the devices, models, data sets and passes that a recipe may use."""
    from qkd.passes import TRAIN_PASSES
    from qkd.student.models import MODELS
    from qkd.targets import target_names

    for kind, names in {
        "devices": target_names(),
        "models": tuple(MODELS),
        "data sets": ("digits", "cifar10", "parquet"),
        "passes": tuple(step.name for step in TRAIN_PASSES),
    }.items():
        _say(f"{kind}: {', '.join(names)}")


def main() -> None:
    """Run the command line; errors that qkd raises on purpose become one message and exit status 2."""
    signal.signal(signal.SIGINT, _interrupted)
    try:
        app()
    except QkdError as error:
        _fail(error)
    except OSError as error:  # from a library that writes files by itself: most often a full disk
        _fail(disk_error(Path(error.filename or "."), error))


def _interrupted(*_: object) -> NoReturn:
    print("interrupted; the same command goes on where this one was", file=sys.stderr)
    sys.exit(130)


def _fail(error: QkdError) -> NoReturn:
    Console(stderr=True).print(f"[bold red]{type(error).__name__}[/bold red]: ", end="")
    print(error, file=sys.stderr)
    sys.exit(2)


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
