"""RunResult → one self-contained HTML page and the table that ends a run."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from qkd.proof.charts import Curve, arena_picture, layer_bars, learning_curves
from qkd.proof.results import DeviceResult, FormatResult, Row, RunResult, rows
from qkd.train.history import HistoryPoint

DASH = "–"  # a number that was not measured


def html(result: RunResult) -> str:
    """The report as one page without script, network or outside files."""
    environment = Environment(
        loader=PackageLoader("qkd.proof", "templates"), undefined=StrictUndefined, autoescape=True
    )
    environment.filters |= {"percent": _percent, "count": _count, "seconds": _seconds}
    formats = [_format_view(f) for f in result.formats]
    return environment.get_template("report.html.j2").render(result=result, rows=rows(result), formats=formats)


def table(result: RunResult) -> Table:
    """The run's last words on a terminal."""
    heads = ("model", "bits", "device", "top-1 float", "torch", "integer", "flash", "arena", "instructions", "evidence",
             "differing elements")  # fmt: skip
    out = Table(title=f"{result.recipe_name}: top-1 over {result.test_images:,} test images; flash and arena in bytes")
    for head in heads:
        out.add_column(head, justify="left" if head in ("model", "bits", "device", "evidence") else "right")
    for row in rows(result):
        out.add_row(*_cells(result.student, row))
    return out


def _cells(model: str, row: Row) -> tuple[str, ...]:
    proof = f"skipped: {row.skipped}" if row.skipped else f"{_count(row.differing)} of {_count(row.elements)}"
    accuracy = (_percent(row.top1_float), _percent(row.top1_torch), _percent(row.top1_integer))
    cost = (_count(row.flash_bytes), _count(row.arena_bytes), _count(row.instructions))
    return (model, row.bits, row.core, *accuracy, *cost, row.evidence or DASH, proof)


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def _count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"


def _format_view(format_: FormatResult) -> dict[str, Any]:
    view = {name: getattr(format_, name) for name in type(format_).model_fields}
    view["training_charts"] = _training_charts(format_.history)
    view["devices"] = [_device_view(device) for device in format_.devices]
    return view


def _training_charts(history: tuple[HistoryPoint, ...]) -> list[dict[str, str]]:
    """Loss and validation accuracy over the epochs of all passes, one after the other."""
    if not history:
        return []
    x = tuple(float(i + 1) for i in range(len(history)))
    starts = [(i + 0.5, point.pass_name) for i, point in enumerate(history) if point.epoch == 0]
    loss = Curve("training loss", x, tuple(p.loss for p in history))
    accuracy = [Curve("student", x, tuple(p.validation_top1 for p in history))]
    if any(p.teacher_top1 is not None for p in history):
        accuracy.append(Curve("teacher", x, tuple(p.teacher_top1 for p in history)))
    return [
        {"title": "training loss", "source": learning_curves([loss], starts, "training loss")},
        {"title": "validation accuracy", "source": learning_curves(accuracy, starts, "validation top-1 (%)")},
    ]


def _device_view(device: DeviceResult) -> dict[str, Any]:
    view = {name: getattr(device, name) for name in type(device).model_fields}
    view["layer_chart"] = view["arena_chart"] = None
    profile = device.profile
    if profile is None:
        return view
    counted = {layer.name: layer.instructions for layer in profile.layers if layer.instructions is not None}
    if counted:
        view["layer_chart"] = layer_bars(list(counted), list(counted.values()), "instructions of one inference")
    if device.buffers:
        steps = [layer.name for layer in profile.layers]
        view["arena_chart"] = arena_picture(device.buffers, profile.arena_bytes, steps)
    return view
