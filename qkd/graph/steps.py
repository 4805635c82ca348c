"""What a graph executes, step by step, and what of it can become C: reshapes move nothing and are no step."""

import re
from dataclasses import dataclass

from qkd.errors import InvariantError, RecipeError, UnsupportedOpError
from qkd.graph.graph import Op, QuantGraph, Reshape, Value

ARENA_ALIGN = 16
"""Bytes to which the arena and every offset in it are aligned."""


def steps(graph: QuantGraph) -> tuple[Op, ...]:
    """The operators that a device executes, in order."""
    return tuple(op for op in graph.ops if not isinstance(op, Reshape))


@dataclass(frozen=True)
class Layer:
    """One operator as the hook counts it: reshapes cost nothing and are not counted."""

    index: int
    op: Op
    kind: str
    macs: int
    output: Value


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
    return tuple(
        Layer(index, op, type(op).__name__, graph.macs(op), graph.values[op.output])
        for index, op in enumerate(steps(graph))
    )


def total_macs(graph: QuantGraph) -> int:
    """Multiply-accumulates of one inference."""
    return sum(graph.macs(op) for op in graph.ops)
