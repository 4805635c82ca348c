"""A QuantGraph as one file: safetensors for the constants, JSON in its metadata for the rest."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from qkd.base.files import write_atomic
from qkd.errors import RecipeError
from qkd.graph.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Conv2dAdd,
    DepthwiseConv2d,
    FullyConnected,
    MaxPool2d,
    Op,
    QParams,
    QuantGraph,
    Reshape,
    Value,
)

FORMAT = 1
OPERATORS: Mapping[str, TypeAdapter[Op]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (Conv2d, DepthwiseConv2d, FullyConnected, Add, AveragePool2d, MaxPool2d, Reshape, Conv2dAdd)
}


def save_graph(graph: QuantGraph, path: Path) -> None:
    """Write the graph, its memory plan included, whole or not at all."""
    tensors: dict[str, NDArray[Any]] = {}
    for name, value in graph.values.items():
        for suffix, array in (("data", value.data), ("codebook", value.codebook)):
            if array is not None:
                tensors[f"{name}/{suffix}"] = np.ascontiguousarray(array)
    description = {
        "format": FORMAT,
        "name": graph.name,
        "ops": [{"kind": type(op).__name__, **asdict(op)} for op in graph.ops],
        "values": [_value_table(value) for value in graph.values.values()],
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "offsets": dict(graph.offsets),
        "scratch_offsets": dict(graph.scratch_offsets),
        "arena_bytes": graph.arena_bytes,
        "sha256": graph.sha256(),
    }
    write_atomic(path, save(tensors, {"qkd_graph": json.dumps(description)}))


def load_graph(path: Path) -> QuantGraph:
    """Read a graph back; RecipeError where the file is missing, damaged or from another version."""
    try:
        with safe_open(path, framework="numpy") as file:
            table = json.loads((file.metadata() or {})["qkd_graph"])
            names = file.keys()
            tensors = {key: file.get_tensor(key) for key in names}
        if table["format"] != FORMAT:
            raise RecipeError(f"{path} has graph format {table['format']}; this version reads {FORMAT}: train it again")
        graph = _read(table, tensors)
    except FileNotFoundError:
        raise RecipeError(f"no graph at {path}; `qkd run` writes it as graph.safetensors in the run folder") from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise RecipeError(f"{path} is not a graph of qkd or is damaged: {error!r}; write it again") from error
    if graph.sha256() != table["sha256"]:
        raise RecipeError(f"{path} does not hash to what it says: it was changed or damaged; write it again")
    return graph


def _value_table(value: Value) -> dict[str, Any]:
    return {
        "name": value.name,
        "shape": value.shape,
        "dtype": value.dtype,
        "scale": value.qparams.scale,
        "zero_point": value.qparams.zero_point,
        "qmin": value.qmin,
        "qmax": value.qmax,
    }


def _read(table: dict[str, Any], tensors: Mapping[str, NDArray[Any]]) -> QuantGraph:
    values = {}
    for v in table["values"]:
        data, codebook = (tensors.get(f"{v['name']}/{suffix}") for suffix in ("data", "codebook"))
        params = QParams(tuple(v["scale"]), v["zero_point"])
        values[v["name"]] = Value(
            v["name"], tuple(v["shape"]), v["dtype"], params, v["qmin"], v["qmax"], data, codebook
        )  # fmt: skip
    ops = tuple(OPERATORS[op.pop("kind")].validate_python(op) for op in table["ops"])
    graph = QuantGraph(table["name"], values, ops, tuple(table["inputs"]), tuple(table["outputs"]))
    if table["arena_bytes"] is None:
        return graph
    return graph.with_plan(table["offsets"], table["scratch_offsets"], table["arena_bytes"])
