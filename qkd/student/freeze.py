"""The bridge from torch to integers: QuantStudent → QuantGraph. Torch ends here."""

from collections.abc import Mapping

import numpy as np
import torch

from qkd.errors import InvariantError, UnsupportedOpError
from qkd.graph.fixed_point import BiasAdd
from qkd.graph.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    DepthwiseConv2d,
    FullyConnected,
    MaxPool2d,
    Op,
    QParams,
    QuantGraph,
    Reshape,
    Value,
)
from qkd.student.activation import Grid
from qkd.student.finite import not_finite
from qkd.student.layers import AddLayer, AveragePoolLayer, FlattenLayer, Layer, MaxPoolLayer
from qkd.student.levels import WeightLevels
from qkd.student.student import QuantStudent
from qkd.student.traced import INPUT
from qkd.student.weighted_layers import ConvLayer, LinearLayer, WeightedLayer


def freeze(student: QuantStudent, name: str) -> QuantGraph:
    """Turn a trained student into the integer graph that computes what its exact mode computes.

    Batch norm, zero points and biases go into each layer's multipliers and offsets, weights become codes.

    Parameters
    ----------
    student : QuantStudent
        Its running statistics and steps as they are now.
    name : str
        Of the graph: a C identifier, the prefix of the library's functions.

    Raises
    ------
    UnsupportedOpError
        Where a weight is NaN, or a layer's scale has no 32-bit form; names the layer.
    InvariantError
        Where a step is not positive, which `qkd.student.quantizer.positive` rules out.
    """
    check_finite(student)
    grids = student.grids()
    shapes = _output_shapes(student)
    height, width, channels = student.input_shape
    values = {INPUT: _activation(INPUT, (1, height, width, channels), grids[INPUT])}
    ops = []
    for layer in student.ordered():
        ops.append(_operator(layer, grids))
        if isinstance(layer, WeightedLayer):
            values[ops[-1].name + ".w"] = _weight(layer)
        values[ops[-1].output] = _output(layer, shapes[layer.name], grids, ops[-1])
    return QuantGraph(name, values, tuple(ops), (INPUT,), (ops[-1].output,))


def check_finite(student: QuantStudent) -> None:
    """Raise where a weight is NaN or a step is not positive, naming the layer."""
    for layer in student.ordered():
        broken = not_finite(layer.state_dict())
        if broken:
            raise UnsupportedOpError(
                f"{layer.name}.{broken} holds NaN or infinity; training diverged: use a lower learning rate"
            )
    for name, step in student.steps().items():
        if float(step.min()) <= 0:
            raise InvariantError(f"the step of {name} is not positive")


def output_value(name: str) -> str:
    """Name of the value that a layer computes; the input keeps its own."""
    return name if name == INPUT else f"{name}.y"


def _operator(layer: Layer, grids: Mapping[str, Grid]) -> Op:
    name, sources = layer.name, [output_value(source) for source in layer.sources]
    inputs = [grids[source] for source in layer.sources]
    output = output_value(name)
    match layer:
        case ConvLayer():
            kind = DepthwiseConv2d if layer.depthwise else Conv2d
            left, right, top, bottom = layer.geometry.padding
            epilogue = layer.epilogue(inputs[0])
            if isinstance(epilogue, BiasAdd):
                raise InvariantError(f"convolution {name} gives logits")
            padding = (top, bottom, left, right)
            return kind(name, sources[0], f"{name}.w", output, layer.geometry.stride, padding, epilogue)
        case LinearLayer():
            return FullyConnected(name, sources[0], f"{name}.w", output, layer.epilogue(inputs[0]))
        case AddLayer():
            return Add(name, sources[0], sources[1], output, layer.epilogue(inputs[0], inputs[1]))
        case AveragePoolLayer():
            return AveragePool2d(name, sources[0], output, layer.kernel, layer.stride, layer.epilogue(inputs[0]))
        case MaxPoolLayer():
            return MaxPool2d(name, sources[0], output, layer.kernel, layer.stride)
        case FlattenLayer():
            return Reshape(name, sources[0], output)
        case _:
            raise InvariantError(f"{type(layer).__name__} {name!r} has no operator in the graph")


def _weight(layer: WeightedLayer) -> Value:
    """Codes, or indices and their codebook, in the device's order: OHWI, (C, KH, KW, 1) for depthwise, OI."""
    table = layer.weight_step.table(layer.weight) if isinstance(layer.weight_step, WeightLevels) else None
    stored, codebook = (layer.weight_codes().astype(np.int8), None) if table is None else table
    ordered = np.ascontiguousarray(stored.transpose(0, 2, 3, 1) if stored.ndim == 4 else stored)
    scale = tuple(float(s) for s in layer.weight_scale().detach().reshape(-1))
    limits = layer.weight_step.codes
    shape = tuple(int(n) for n in ordered.shape)
    return Value(f"{layer.name}.w", shape, "int8", QParams(scale), limits.qmin, limits.qmax, ordered, codebook)


def _activation(name: str, shape: tuple[int, ...], grid: Grid) -> Value:
    params = QParams((grid.step.item(),), grid.zero_point)
    return Value(name, shape, "int8", params, grid.stored.qmin, grid.stored.qmax)


def _output(layer: Layer, shape: tuple[int, ...], grids: Mapping[str, Grid], op: Op) -> Value:
    if layer.name in grids:
        return _activation(op.output, shape, grids[layer.name])
    if not (isinstance(op, FullyConnected) and isinstance(op.epilogue, BiasAdd) and isinstance(layer, WeightedLayer)):
        raise InvariantError(f"{layer.name} gives neither codes nor logits")
    scale = grids[layer.sources[0]].step.item() * layer.weight_scale().item() / 2**op.epilogue.pre_shift
    return Value(op.output, shape, "int32", QParams((scale,)), -(2**31), 2**31 - 1)


@torch.no_grad()
def _output_shapes(student: QuantStudent) -> dict[str, tuple[int, ...]]:
    """(1, H, W, C) or (1, K) of every layer, from one run in real mode."""
    height, width, channels = student.input_shape
    known = {INPUT: torch.zeros(1, channels, height, width)}
    training = student.training
    student.eval()
    for layer in student.ordered():
        known[layer.name] = layer.real(*(known[source] for source in layer.sources))
    student.train(training)
    return {n: tuple((t.permute(0, 2, 3, 1) if t.dim() == 4 else t).shape) for n, t in known.items()}
