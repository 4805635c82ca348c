"""Whether a run's folder still holds what was proved: graphs and firmware by their hashes."""

from pathlib import Path

from qkd.bundle.manifest import check_bundle
from qkd.errors import RecipeError
from qkd.graph.graph_file import load_graph
from qkd.proof.results import FormatResult, RunResult
from qkd.run_folder import graph_path


def check_run(folder: Path) -> None:
    """Compare every graph with results.json and every bundle with its manifest.

    Raises
    ------
    RecipeError
        Naming the first graph or bundle that is no longer what was proved.
    """
    for found in RunResult.load(folder / "results.json").formats:
        _check_format(folder, found)


def _check_format(folder: Path, found: FormatResult) -> None:
    path = graph_path(folder, found.bits)
    if load_graph(path).sha256() != found.graph_sha256:
        raise RecipeError(f"{path} is not the graph of results.json ({found.graph_sha256[:12]}…); run `qkd run` again")
    for device in found.devices:
        if device.firmware is None:
            continue
        manifest = check_bundle(folder / device.firmware)
        if manifest.graph_sha256 != found.graph_sha256:
            raise RecipeError(f"{folder / device.firmware} holds another graph than {path}; run `qkd run` again")
