"""Kernels that are right everywhere, for every operator and width: the fall-back, and the control of every benchmark.

A convolution copies the patch under one output pixel into the scratch, padding included, and multiplies it with the
packed weights of one channel after the other. Shapes, strides and shifts are immediates. Weights with a codebook stay
indices in flash and are looked up, one after the other.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, assert_never

import numpy as np

from qkd.errors import InvariantError
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
)
from qkd.graph.packing import pack_rows
from qkd.target import Target
from qkd.targets.kernels.epilogue import add_rescaled, channel_table, finish, requantize, split_addend, store
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.window import Weighted, Window, window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import (
    Expr,
    Operand,
    Pointer,
    Register,
    branch,
    cast,
    constant,
    let,
    loop,
    maximum,
    nounroll,
    widen,
)

ROLLED = frozenset({"armv6-m", "armv7e-m"})
"""Instruction sets where LLVM's unrolling only spills registers; others vectorise or have hardware loops."""


Read: TypeAlias = Callable[[Operand], Expr]
Decode: TypeAlias = Callable[[Expr, int], Expr]
"""A byte of packed weights and the number of a field in it to the weight."""


def kernels(graph: QuantGraph, op: Op, target: Target) -> Iterable[Kernel]:
    """The generic kernel of an operator; it is safe wherever `freeze` proved the accumulator."""
    rolled = target.instruction_set in ROLLED
    match op:
        case Conv2d() | Conv2dAdd() | DepthwiseConv2d() | FullyConnected():
            yield _weighted(graph, op, rolled)
        case Add():
            yield _add(graph, op, rolled)
        case AveragePool2d() | MaxPool2d():
            yield _pool(graph, op, rolled)
        case Reshape():
            raise InvariantError(f"{op.name!r} is a reshape, which has no kernel; skip it when choosing kernels")
        case _:
            assert_never(op)


def _weighted(graph: QuantGraph, op: Weighted, rolled: bool) -> Kernel:
    weight, entry = graph.values[op.weight], graph.values[op.input]
    window = window_of(graph, op)
    depthwise = isinstance(op, DepthwiseConv2d)
    rows = weight.stored.reshape(weight.shape[0], -1)
    packed = pack_rows(rows, weight.packed_bits).view(np.int8)
    codebook = () if weight.codebook is None else (weight.codebook,)

    def body(x: Pointer, *pointers: Pointer) -> None:
        addend, (weights, table, *rest) = split_addend(op, pointers)
        y, *scratch = rest[len(codebook) :]
        levels = rest[0] if codebook else None
        with _pixels(window, rolled) as (row, column):
            patch, start = x, (row * window.stride[0] * window.width + column * window.stride[1]) * window.channels
            if scratch:
                _gather(x, scratch[0], window, row, column, entry.qparams.zero_point, rolled)
                patch, start = scratch[0], constant(0)
            with _loop(len(rows), rolled) as channel:
                step, first = (window.channels, start + channel) if depthwise else (1, start)
                decode = _decoder(weight, levels, channel)
                acc = _dot(weights, channel * packed.shape[1], 8 // weight.packed_bits, rows.shape[1], decode,
                           lambda tap: patch[first + tap * step], rolled)  # fmt: skip
                code = finish(acc.value, op.epilogue, table, channel)
                store(y, (row * window.out_width + column) * len(rows) + channel, code, op, addend)

    scratch_bytes = 0 if window.is_pixel else window.taps * window.channels
    constants = (packed, channel_table(op.epilogue), *codebook)
    in_place = isinstance(op, Conv2dAdd)
    if not codebook:
        return make_kernel(graph, op, body, constants, scratch_bytes, in_place)
    why = f"weights stay {weight.packed_bits}-bit indices in flash, looked up in a table of {codebook[0].size} codes"
    return make_kernel(graph, op, body, constants, scratch_bytes, in_place, variant="generic_lookup", why=why)


def _decoder(weight: Value, levels: Pointer | None, channel: Expr) -> Decode:
    """How a packed field becomes a weight: its sign extended, or looked up in the codebook."""
    bits = weight.packed_bits
    if levels is None or weight.codebook is None:
        # Shift the field to the top of the word and back down: one SBFX on Arm, with the sign extended.
        return lambda byte, field: (byte << (32 - bits * (field + 1))) >> (32 - bits)
    first = channel * weight.codebook.shape[1] if weight.codebook.ndim == 2 else constant(0)
    return lambda byte, field: widen(levels[first + ((byte >> (bits * field)) & (2**bits - 1))])


def _add(graph: QuantGraph, op: Add, rolled: bool) -> Kernel:
    def body(a: Pointer, b: Pointer, y: Pointer) -> None:
        with _loop(graph.values[op.output].elements, rolled) as i:
            y[i] = cast(add_rescaled(a[i], b[i], op.epilogue), "int8")

    return make_kernel(graph, op, body, in_place=True)


def _pool(graph: QuantGraph, op: AveragePool2d | MaxPool2d, rolled: bool) -> Kernel:
    window = window_of(graph, op)

    def body(x: Pointer, y: Pointer) -> None:
        with _pixels(window, rolled) as (row, column), _loop(window.channels, rolled) as channel:
            result = Register("int32", 0 if isinstance(op, AveragePool2d) else -128)
            with _loop(window.kernel[0], rolled) as i, _loop(window.kernel[1], rolled) as j:
                pixel = (row * window.stride[0] + i) * window.width + column * window.stride[1] + j
                code = widen(x[pixel * window.channels + channel])
                is_sum = isinstance(op, AveragePool2d)
                result.value = result.value + code if is_sum else maximum(result.value, code)
            code = result.value
            if isinstance(op, AveragePool2d):
                multiplier, offset = constant(op.epilogue.multiplier[0]), constant(op.epilogue.offset[0])
                code = requantize(code, op.epilogue, multiplier, offset)
            y[(row * window.out_width + column) * window.channels + channel] = cast(code, "int8")

    return make_kernel(graph, op, body)


@contextmanager
def _loop(count: int, rolled: bool) -> Iterator[Expr]:
    with loop(count) as index:
        if rolled:
            nounroll()
        yield index


@contextmanager
def _pixels(window: Window, rolled: bool) -> Iterator[tuple[Expr, Expr]]:
    """Visit every output pixel; gives its row and column."""
    with _loop(window.out_height, rolled) as row, _loop(window.out_width, rolled) as column:
        yield row, column


def _gather(x: Pointer, patch: Pointer, window: Window, row: Expr, column: Expr, zero_point: int, rolled: bool) -> None:
    """Copy the patch under an output pixel as [tap][channel]; outside the input it reads `zero_point`."""
    with _loop(window.kernel[0], rolled) as i, _loop(window.kernel[1], rolled) as j:
        y_in = let(row * window.stride[0] + i - window.padding[0])
        x_in = let(column * window.stride[1] + j - window.padding[2])
        source = (y_in * window.width + x_in) * window.channels
        target = (i * window.kernel[1] + j) * window.channels

        def copy() -> None:
            with _loop(window.channels, rolled) as channel:
                patch[target + channel] = x[source + channel]

        def fill() -> None:
            with _loop(window.channels, rolled) as channel:
                patch[target + channel] = zero_point

        if any(window.padding):
            inside = (y_in >= 0) & (y_in < window.height) & (x_in >= 0) & (x_in < window.width)
            branch(inside, copy, fill)
        else:
            copy()


def _dot(
    weights: Pointer, row: Expr, per_byte: int, taps: int, decode: Decode, read: Read, rolled: bool
) -> Register:  # fmt: skip
    """Sum of products of `taps` codes and the packed row that starts at byte `row`."""
    acc = Register()

    def multiply(index: Operand, fields: int) -> None:
        byte = let(widen(weights[row + index]))
        for field in range(fields):
            acc.value = acc.value + decode(byte, field) * widen(read(index * per_byte + field))

    if taps >= per_byte:
        with _loop(taps // per_byte, rolled) as index:
            multiply(index, per_byte)
    if taps % per_byte:
        multiply(taps // per_byte, taps % per_byte)
    return acc
