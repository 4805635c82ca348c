"""QuantGraph → portable C99: the model as sources that any compiler takes and a person can read and step through.

Not made by TVM: the kernels are hand-written templates with the arithmetic of `fixed_point.py`, so the sources are a
second, independent implementation of the same graph. They need no scratch memory and work in any valid memory plan.
"""

from dataclasses import dataclass

from qkd import __version__
from qkd.bundle.portable_steps import Step, pointer, portable_steps
from qkd.bundle.rendering import render
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import check_exportable, layers

TEMPLATES = {
    "{name}.c": "model.c.j2",
    "{name}_weights.h": "weights.h.j2",
    "{name}_weights.c": "weights.c.j2",
    "{name}_kernels.h": "kernels.h.j2",
    "{name}_kernels.c": "kernels.c.j2",
}

NEEDS = {
    "conv2d": {"windows", "padding", "requantize", "clamp"},
    "conv2d_add": {"windows", "padding", "requantize", "clamp", "rescale"},
    "depthwise": {"windows", "padding", "requantize", "clamp"},
    "average_pool": {"windows", "requantize", "clamp"},
    "max_pool": {"windows"},
    "fully_connected": {"requantize", "clamp", "dot"},
    "logits": {"dot"},
    "add": {"clamp", "rescale"},
}
"""Types and static functions behind each family of kernels: an unused one would be a warning in the user's build."""


@dataclass(frozen=True)
class Buffer:
    """An activation's place in the arena."""

    symbol: str
    offset: int
    layer: str


def portable_sources(name: str, graph: QuantGraph) -> dict[str, str]:
    """Write the model as C sources; with `<name>.h` from `qkd.bundle.header.c_header` they are complete.

    Parameters
    ----------
    name : str
        Prefix of every symbol that the linker sees, so that several models fit into one firmware.
    graph : QuantGraph
        With a memory plan; one input and one output.

    Returns
    -------
    dict of str to str
        File name to text; the same bytes on every run.

    Raises
    ------
    RecipeError, UnsupportedOpError, InvariantError
        As `c_header`.
    """
    check_exportable(name, graph)
    steps = portable_steps(name, graph)
    facts = {
        "name": name,
        "NAME": name.upper(),
        "version": __version__,
        "sha256": graph.sha256(),
        "output_type": "int32_t" if graph.values[graph.outputs[0]].dtype == "int32" else "int8_t",
        "steps": steps,
        "buffers": _buffers(graph),
        "total_bytes": sum(table.size_bytes for step in steps for table in step.tables),
        **_kernels_used(steps),
    }
    return {file.format(name=name): render(template, **facts) for file, template in TEMPLATES.items()}


def _kernels_used(steps: tuple[Step, ...]) -> dict[str, object]:
    """What the kernel templates must define: families, the weight widths of each, and what stands behind them."""
    found = [(step.family, step.packing) for step in steps if step.packing is not None]
    packings = {packing for _, packing in found}
    families = {step.family for step in steps}
    return {
        "uses": families.union(*(NEEDS[family] for family in families)),
        "widths": {family: sorted({p for f, p in found if f == family}) for family in NEEDS},
        "conv2d_widths": sorted({p for family, p in found if family in ("conv2d", "conv2d_add")}),
        "all_widths": sorted({p.bits for p in packings}),
        "unpacked_widths": sorted({p.bits for p in packings if not p.table}),
        "table_widths": sorted({p.bits for p in packings if p.table}),
        "any_table": any(p.table for p in packings),
        "table_parameters": " const int8_t *levels, int32_t row_levels,",
        "dot_widths": sorted({p for family, p in found if "dot" in NEEDS[family]}),
    }


def _buffers(graph: QuantGraph) -> tuple[Buffer, ...]:
    named = [(pointer(graph, layer.output.name), layer) for layer in layers(graph)]
    return tuple(
        Buffer(symbol, graph.offsets[layer.output.name], layer.op.name) for symbol, layer in named if symbol != "output"
    )
