"""The C header of a model: one API for the static library and for the portable C sources."""

import re
from dataclasses import dataclass
from fractions import Fraction

from qkd import __version__
from qkd.errors import InvariantError, RecipeError, UnsupportedOpError
from qkd.graph import Op, QuantGraph, Reshape, Value
from qkd.rendering import render

ARENA_ALIGN = 16  # bytes; what the memory planner aligns every offset to
LARGEST_DENOMINATOR = 65536  # a step such as 1/16 or 2/255 is a ratio to people; 0.0173451 is not


@dataclass(frozen=True)
class Layer:
    """One operator as the hook counts it: reshapes cost nothing and are not counted."""

    index: int
    op: Op
    kind: str
    macs: int
    output: Value


def c_header(name: str, graph: QuantGraph, stack_bytes: int | None, flash_bytes: int | None) -> str:
    """Write `<name>.h`, which tells a firmware engineer how to call the model and what it needs.

    Parameters
    ----------
    name : str
        Prefix of every symbol; lower-case letters, digits and underscores.
    graph : QuantGraph
        With a memory plan; one input and one output.
    stack_bytes, flash_bytes : int or None
        What the static library was measured to take; None leaves the macro out: a guess must not look like a number.

    Returns
    -------
    str
        C99, the same text on every run.

    Raises
    ------
    RecipeError
        When `name` cannot stand in C.
    UnsupportedOpError
        When the graph has other than one input and one output.
    InvariantError
        When the graph has no memory plan.
    """
    check_exportable(name, graph)
    entry, exit_ = graph.values[graph.inputs[0]], graph.values[graph.outputs[0]]
    return render(
        "model.h.j2",
        name=name,
        NAME=name.upper(),
        graph=graph,
        layers=layers(graph),
        macs=total_macs(graph),
        input=entry,
        output=exit_,
        input_ratio=simple_ratio(entry.qparams.scale[0]),
        output_ratio=simple_ratio(exit_.qparams.scale[0]),
        output_type="int32_t" if exit_.dtype == "int32" else "int8_t",
        sha256=graph.sha256(),
        arena_bytes=arena_bytes(graph),
        arena_align=ARENA_ALIGN,
        stack_bytes=stack_bytes,
        flash_bytes=flash_bytes,
        version=__version__,
    )


def check_exportable(name: str, graph: QuantGraph) -> None:
    """Raise the error that says why this graph cannot become C under this name; return where it can."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise RecipeError(
            f"model name {name!r} cannot be a C prefix; use lower-case letters, digits and underscores, "
            "starting with a letter, for example digits_w4a8"
        )
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise UnsupportedOpError(
            f"{name!r} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; the C API has one of each"
        )
    if graph.storage(graph.outputs[0]) == graph.inputs[0]:
        raise UnsupportedOpError(f"{name!r} computes nothing: its output is its input; give it at least one layer")
    if graph.arena_bytes is None:
        raise InvariantError(f"{name!r} has no memory plan; run the plan_memory pass before writing C")


def arena_bytes(graph: QuantGraph) -> int:
    """Bytes that the caller must provide; at least one unit, as C has no empty arrays."""
    return max(graph.arena_bytes or 0, ARENA_ALIGN)


def layers(graph: QuantGraph) -> tuple[Layer, ...]:
    """The operators in the order of the hook's `layer`, reshapes left out."""
    counted = [op for op in graph.ops if not isinstance(op, Reshape)]
    return tuple(
        Layer(index, op, type(op).__name__, graph.macs(op), graph.values[op.output]) for index, op in enumerate(counted)
    )


def total_macs(graph: QuantGraph) -> int:
    """Multiply-accumulates of one inference."""
    return sum(graph.macs(op) for op in graph.ops)


def simple_ratio(scale: float) -> Fraction | None:
    """The fraction that `scale` is exactly, if one with a small denominator exists.

    >>> simple_ratio(1 / 16), simple_ratio(0.017345123)
    (Fraction(1, 16), None)
    """
    ratio = Fraction(scale).limit_denominator(LARGEST_DENOMINATOR)
    return ratio if float(ratio) == scale else None
