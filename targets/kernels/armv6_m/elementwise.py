"""Residual add and average pool for Armv6-M."""

import numpy as np

from qkd.graph.graph import Add, AveragePool2d, QuantGraph
from qkd.targets.kernels.armv6_m.requantize import accumulator_range, digit_requantize
from qkd.targets.kernels.epilogue import add_rescaled
from qkd.targets.kernels.make import make_kernel
from qkd.targets.kernels.thumb import rolled, unrolled_add
from qkd.targets.kernels.window import window_of
from qkd.tir.kernel import Kernel
from qkd.tir.tir import Pointer, Register, cast, constant, let, widen


def add_kernel(graph: QuantGraph, op: Add) -> Kernel:
    """Add by two products and a clamp an element; works in place."""
    return unrolled_add(graph, op, lambda a, b: add_rescaled(a, b, op.epilogue), "mul_add")


def average_pool_kernels(graph: QuantGraph, op: AveragePool2d) -> tuple[Kernel, ...]:
    """Sum one channel after the other; the division is a few digits long."""
    w, entry = window_of(graph, op), graph.values[op.input]
    steps = digit_requantize(op.epilogue, *accumulator_range(np.ones((1, w.taps), np.int64), entry.qmin, entry.qmax))
    if steps is None:
        return ()

    def body(x: Pointer, table: Pointer, y: Pointer) -> None:
        with rolled(w.out_height) as row, rolled(w.out_width) as column, rolled(w.channels) as channel:
            first = let((row * (w.stride[0] * w.width) + column * w.stride[1]) * w.channels + channel)
            total = Register()
            with rolled(w.kernel[0]) as i:
                start = let(first + i * (w.width * w.channels))
                with rolled(w.kernel[1]) as j:
                    total.value = total.value + widen(x[start + j * w.channels])
            code = steps.write(total.value, steps.constants(table, constant(0)))
            y[(row * w.out_width + column) * w.channels + channel] = cast(code, "int8")

    why = f"{steps.digits.shape[1]} digits of the multiplier give every code"
    return (make_kernel(graph, op, body, (steps.table,), variant="digits", why=why),)
