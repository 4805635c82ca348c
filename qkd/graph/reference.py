"""Run a QuantGraph in NumPy integers: the meaning of the graph, to which every device must be equal.

Written for clarity and for whole test sets: sums of products run through float BLAS only where the accumulator bound
proves that every partial sum is an exact integer of the float type.
"""

from typing import TypeAlias, assert_never

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qkd.graph.fixed_point import BiasAdd, Requantize, add_rescaled, requantize
from qkd.graph.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Conv2dAdd,
    DepthwiseConv2d,
    FullyConnected,
    MaxPool2d,
    Op,
    QuantGraph,
    Reshape,
    Value,
    accumulator_bound,
)

Ints: TypeAlias = NDArray[np.int64]


def run(graph: QuantGraph, inputs: NDArray[np.int8]) -> dict[str, NDArray[np.int8] | NDArray[np.int32]]:
    """Run the graph and return every activation.

    Parameters
    ----------
    graph : QuantGraph
        One input, one or more outputs.
    inputs : int8 array of shape (N, *input shape without its leading 1)
        N samples as codes.

    Returns
    -------
    dict of str to int8 or int32 array
        Each activation of the graph for all N samples, the leading 1 replaced by N.

    Raises
    ------
    ValueError
        When the shape or dtype of `inputs` is not the graph's.
    """
    entry = graph.values[graph.inputs[0]]
    if inputs.dtype != np.int8 or inputs.shape[1:] != entry.shape[1:]:
        raise ValueError(
            f"inputs are {inputs.dtype} {inputs.shape}; {graph.name!r} takes int8 of shape (N, *{entry.shape[1:]})"
        )
    known: dict[str, Ints] = {entry.name: inputs.astype(np.int64)}
    for op in graph.ops:
        known[op.output] = compute(graph, op, known)
    return {name: codes.astype(graph.values[name].dtype) for name, codes in known.items()}


def run_in_batches(graph: QuantGraph, inputs: NDArray[np.int8], batch: int = 250) -> NDArray[np.int32]:
    """The graph's first output for many samples, `batch` at a time so that memory stays small."""
    parts = [run(graph, inputs[i : i + batch])[graph.outputs[0]] for i in range(0, len(inputs), batch)]
    return np.concatenate(parts).astype(np.int32)


def compute(graph: QuantGraph, op: Op, known: dict[str, Ints]) -> Ints:
    """What one operator computes, as int64 codes for all samples."""
    x = known[op.input]
    match op:
        case Conv2d():
            return _requantize(_convolve(x, graph.values[op.input], graph.values[op.weight], op), op.epilogue)
        case DepthwiseConv2d():
            return _requantize(_convolve_depthwise(x, graph.values[op.input], graph.values[op.weight], op), op.epilogue)
        case FullyConnected():
            acc = _multiply(x, graph.values[op.weight], graph.values[op.input])
            return _add_bias(acc, op.epilogue) if isinstance(op.epilogue, BiasAdd) else _requantize(acc, op.epilogue)
        case Add():
            return add_rescaled(x, known[op.other], op.epilogue)
        case AveragePool2d():
            return _requantize(_windows(x, op.kernel, op.stride).sum(axis=(-2, -1)), op.epilogue)
        case MaxPool2d():
            return np.asarray(_windows(x, op.kernel, op.stride).max(axis=(-2, -1)))
        case Conv2dAdd():
            return compute(graph, op.add, {**known, op.conv.output: compute(graph, op.conv, known)})
        case Reshape():
            return x.reshape(len(x), *graph.values[op.output].shape[1:])
        case _:
            assert_never(op)


def _requantize(acc: Ints, rq: Requantize) -> Ints:
    return requantize(acc, rq, np.array(rq.multiplier, np.int64), np.array(rq.offset, np.int64))


def _add_bias(acc: Ints, bias: BiasAdd) -> Ints:
    return (acc << bias.pre_shift) + np.array(bias.offset, np.int64)


def _windows(x: Ints, kernel: tuple[int, int], stride: tuple[int, int]) -> Ints:
    """(N, H, W, C) → (N, OH, OW, C, KH, KW)."""
    return sliding_window_view(x, kernel, axis=(1, 2))[:, :: stride[0], :: stride[1]]


def _padded(x: Ints, padding: tuple[int, int, int, int], zero_point: int) -> Ints:
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=zero_point)


def _convolve(x: Ints, entry: Value, weight: Value, op: Conv2d) -> Ints:
    _, kh, kw, _ = weight.shape
    patches = _windows(_padded(x, op.padding, entry.qparams.zero_point), (kh, kw), op.stride)
    n, oh, ow = patches.shape[:3]
    rows = patches.transpose(0, 1, 2, 4, 5, 3).reshape(n * oh * ow, -1)
    return _multiply(rows, weight, entry).reshape(n, oh, ow, -1)


def _convolve_depthwise(x: Ints, entry: Value, weight: Value, op: DepthwiseConv2d) -> Ints:
    channels, kh, kw, _ = weight.shape
    patches = _windows(_padded(x, op.padding, entry.qparams.zero_point), (kh, kw), op.stride)
    taps = weight.codes.reshape(channels, kh, kw)
    return np.asarray(np.einsum("nhwcij,cij->nhwc", patches, taps))


def _multiply(rows: Ints, weight: Value, entry: Value) -> Ints:
    """rows (R, K) times weight (O, K) transposed, exact."""
    codes = weight.codes.reshape(weight.shape[0], -1)
    exact = np.float32 if accumulator_bound(codes, entry.qmin, entry.qmax) < 2**24 else np.float64
    return np.asarray((rows.astype(exact) @ codes.T.astype(exact)).astype(np.int64))
