"""The command line: few verbs, no knobs; what a run depends on stands in its recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from qkd.errors import QkdError
from qkd.progress import Bars

app = typer.Typer(
    help="A distillation compiler for low-bit neural networks on Arm: what is trained is what runs, bit for bit.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
)  # fmt: skip
console = Console()

RecipePath = Annotated[Path, typer.Argument(help="A recipe, for example benchmarks/recipes/digits.toml.")]
Changes = Annotated[list[str] | None, typer.Argument(help="Changes to the recipe: train.seed=1 'bits=[\"W4A4\"]'.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run; the default is runs/<recipe's name>.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
Device = Annotated[str, typer.Option(help="A device that `qkd list` names.")]


@app.command()
def run(recipe: RecipePath, changes: Changes = None, out: Out = None) -> None:
    """Train, freeze, lower, prove, profile and bundle; interrupted, it goes on where it was."""
    from qkd.compile import compile_recipe
    from qkd.report import table

    result, folder = compile_recipe(recipe, tuple(changes or ()), out, Bars(console))
    Console(width=max(console.width, 150)).print(table(result))
    console.print(f"report: {folder / 'report.html'}\nfirmware: {folder / 'firmware'}", highlight=False)
    if any(device.differing for format_ in result.formats for device in format_.devices):
        raise typer.Exit(1)


@app.command()
def check(recipe: RecipePath, changes: Changes = None) -> None:
    """Check all that can be known before the first epoch: recipe, pass order, data, tools, memory."""
    from qkd.compile import check_recipe
    from qkd.recipe import load_recipe

    for line in check_recipe(load_recipe(recipe, tuple(changes or ()))):
        console.print(line, highlight=False)


@app.command()
def lower(
    graph: Annotated[Path, typer.Argument(help="A frozen graph (graph.safetensors of a run).")],
    device: Device,
    out: Annotated[Path | None, typer.Option(help="Write the static library and its header here.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say which kernels were chosen, and why.")] = False,
) -> None:
    """Lower a frozen graph for one device and print what it takes."""
    from qkd.compile import lower_file

    for line in lower_file(graph, device, out, verbose):
        console.print(line, highlight=False)


@app.command()
def verify(
    folder: RunFolder,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    images: Annotated[int, typer.Option(help="Test images; 0 is the whole test split.")] = 0,
) -> None:
    """Prove again that the devices compute what was trained: every element of every layer, tolerance 0."""
    from qkd.compile import verify_run

    differing = 0
    for line, differs in verify_run(folder, device, images, Bars(console)):
        console.print(line, highlight=False)
        differing += differs
    if differing:
        raise typer.Exit(1)


@app.command()
def report(folder: RunFolder) -> None:
    """Write the HTML report of a finished run again."""
    from qkd.compile import write_report
    from qkd.results import RunResult

    console.print(str(write_report(folder, RunResult.load(folder / "results.json"))), highlight=False)


@app.command("list")
def list_() -> None:
    """Name the devices, models, data sets and passes that a recipe may use."""
    from qkd.compile import known_names

    for kind, names in known_names().items():
        console.print(f"[bold]{kind}[/bold]: {', '.join(names)}", highlight=False)


def main() -> None:
    """Run the command line; errors that qkd raises on purpose become one message and exit status 2."""
    try:
        app()
    except QkdError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/bold red]: ", end="")
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one was", file=sys.stderr)
        sys.exit(130)
