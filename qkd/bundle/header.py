"""The C header of a model: one API for the static library and for the portable C sources."""

from fractions import Fraction

from qkd import __version__
from qkd.bundle.rendering import render
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import ARENA_ALIGN, arena_bytes, check_exportable, layers, total_macs

LARGEST_DENOMINATOR = 65536  # a step such as 1/16 or 2/255 is a ratio to people; 0.0173451 is not


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


def simple_ratio(scale: float) -> Fraction | None:
    """The fraction that `scale` is exactly, if one with a small denominator exists.

    >>> simple_ratio(1 / 16), simple_ratio(0.017345123)
    (Fraction(1, 16), None)
    """
    ratio = Fraction(scale).limit_denominator(LARGEST_DENOMINATOR)
    return ratio if float(ratio) == scale else None
