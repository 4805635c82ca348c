"""The report's pictures as self-contained SVG: learning curves, layer bars, the arena over time."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qkd.graph.arena import BufferFact

COLORS = ("#1b6ca8", "#d1603d", "#3c8d5a", "#8656a5", "#b08a1e", "#4a9aa5", "#a8476f", "#6b6b6b")


@dataclass(frozen=True)
class Curve:
    """One line of a chart: x positions and values, None where nothing was measured."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]


def learning_curves(curves: Sequence[Curve], boundaries: Sequence[tuple[float, str]], unit: str) -> str:
    """Values over epochs, with a line where each pass begins; returns an image source."""
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    for color, curve in zip(COLORS, curves, strict=False):
        points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
        axes.plot(*zip(*points, strict=True), label=curve.label, color=color, linewidth=1.4, marker=".", markersize=4)
    for start, name in boundaries:
        axes.axvline(start, color="#bbb", linewidth=0.8, zorder=0)
        axes.annotate(name, (start, 1.01), xycoords=("data", "axes fraction"), fontsize=7, rotation=30, color="#555")
    axes.set_xlabel("epochs of training, all passes")
    axes.set_ylabel(unit)
    axes.legend(fontsize=8, frameon=False)
    return _image(figure)


def layer_bars(names: Sequence[str], values: Sequence[float], unit: str) -> str:
    """One horizontal bar a layer, in order of execution."""
    figure = Figure(figsize=(9, 0.6 + 0.24 * len(names)))
    axes = figure.subplots()
    axes.barh(range(len(names)), values, color=COLORS[0], height=0.7)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.bar_label(axes.containers[0], labels=[f" {v:,.0f}" for v in values], fontsize=7)  # type: ignore[arg-type]
    axes.set_xlim(0, max(values, default=1) * 1.15 or 1)
    return _image(figure)


def arena_picture(blocks: Sequence[BufferFact], arena_bytes: int, steps: Sequence[str]) -> str:
    """Which bytes of the arena are live during which layer; workspaces are hatched."""
    figure = Figure(figsize=(9, 3.6))
    axes = figure.subplots()
    for i, block in enumerate(blocks):
        box = Rectangle(
            (block.first - 0.5, block.offset_bytes), block.last - block.first + 1, block.size_bytes,
            facecolor="#ddd" if block.scratch else COLORS[i % len(COLORS)], edgecolor="white", linewidth=0.8,
            hatch="///" if block.scratch else None, alpha=0.85,
        )  # fmt: skip
        axes.add_patch(box)
        if not block.scratch and block.size_bytes > arena_bytes / 25:
            middle = ((block.first + block.last) / 2, block.offset_bytes + block.size_bytes / 2)
            axes.annotate(block.name, middle, ha="center", va="center", fontsize=6.5, color="white")
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set_ylim(0, max(arena_bytes, 1))
    axes.set_xticks(range(len(steps)), steps, rotation=45, ha="right", fontsize=7)
    axes.set_ylabel("byte of the arena")
    return _image(figure)


def _image(figure: Figure) -> str:
    """An SVG as a data URI: identical input gives identical bytes, and ids cannot clash between pictures."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "qkd", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
