"""Random graphs and arrays for property tests: one place, so that every rung of the ladder sees the same kinds."""

import numpy as np
from numpy.typing import NDArray

from qkd.graph.fixed_point import choose_add, choose_bias_add, choose_requantize
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
    accumulator_bound,
)

WEIGHT_RANGES = {"ternary": (-1, 1), "2": (-2, 1), "3": (-3, 3), "4": (-7, 7), "8": (-127, 127)}
"""Code range of a weight by its format."""

ACTIVATION_RANGES = {"s8": (-128, 127, 0), "u8": (-128, 127, -128), "u4": (0, 15, 0), "u5": (0, 31, 0)}
"""(qmin, qmax, zero point) of an activation by its format."""


class RandomGraph:
    """Builds a valid QuantGraph op by op with random weights and requantize parameters that use the whole range."""

    def __init__(self, seed: int, input_shape: tuple[int, ...], activation: str = "s8", name: str = "random") -> None:
        self.rng = np.random.default_rng(seed)
        self.values: dict[str, Value] = {}
        self.ops: list[Op] = []
        self.name = name
        self.input = self._activation("input", (1, *input_shape), activation).name

    def conv(
        self, source: str, out: int, kernel: tuple[int, int], *, stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0), weight: str = "4", activation: str = "u8",
        extreme: bool = False,
    ) -> str:  # fmt: skip
        """Add a convolution and return its output's name."""
        shape = (out, *kernel, self.values[source].shape[-1])
        return self._weighted(Conv2d, source, shape, stride, padding, weight, activation, extreme)

    def depthwise(
        self, source: str, kernel: tuple[int, int], *, stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0), weight: str = "4", activation: str = "u8",
        extreme: bool = False,
    ) -> str:  # fmt: skip
        """Add a depthwise convolution."""
        shape = (self.values[source].shape[-1], *kernel, 1)
        return self._weighted(DepthwiseConv2d, source, shape, stride, padding, weight, activation, extreme)

    def fully_connected(
        self, source: str, out: int, weight: str = "8", activation: str | None = None, extreme: bool = False
    ) -> str:
        """Add a fully connected layer: int32 logits, or codes when an activation format is given."""
        op = f"fc_{len(self.ops)}"
        entry = self.values[source]
        w = self._weight(op, (out, entry.shape[-1]), weight, extreme)
        bound = accumulator_bound(w.codes, entry.qmin, entry.qmax)
        if activation is None:
            epilogue = choose_bias_add(self.rng.normal(0, 50, out), bound)
            output = Value(f"{op}.y", (1, out), "int32", QParams((0.01,)), -(2**31), 2**31 - 1)
            self.values[output.name] = output
        else:
            output = self._activation(f"{op}.y", (1, out), activation)
            epilogue = self._requantize(w, entry, output)
        self.ops.append(FullyConnected(op, source, w.name, output.name, epilogue))
        return output.name

    def add(self, a: str, b: str, activation: str = "u8") -> str:
        """Add two activations of one shape."""
        op = f"add_{len(self.ops)}"
        output = self._activation(f"{op}.y", self.values[a].shape, activation)
        zeros = tuple(self.values[n].qparams.zero_point for n in (a, b, output.name))
        scale_a, scale_b = self.rng.uniform(0.2, 1.5, 2)
        epilogue = choose_add(scale_a, scale_b, (zeros[0], zeros[1], zeros[2]), output.qmin, output.qmax)
        self.ops.append(Add(op, a, b, output.name, epilogue))
        return output.name

    def average_pool(self, source: str, kernel: tuple[int, int], activation: str = "s8") -> str:
        """Add an average pool with stride = kernel."""
        op = f"pool_{len(self.ops)}"
        n, h, w, c = self.values[source].shape
        output = self._activation(f"{op}.y", (n, h // kernel[0], w // kernel[1], c), activation)
        entry = self.values[source]
        taps = kernel[0] * kernel[1]
        scale = np.array([self.rng.uniform(0.5, 1.5) / taps])
        bias = -entry.qparams.zero_point * taps * scale
        bound = max(abs(entry.qmin), abs(entry.qmax)) * taps
        epilogue = choose_requantize(scale, bias, bound, output.qparams.zero_point, output.qmin, output.qmax)
        self.ops.append(AveragePool2d(op, source, output.name, kernel, kernel, epilogue))
        return output.name

    def max_pool(self, source: str, kernel: tuple[int, int], stride: tuple[int, int]) -> str:
        """Add a max pool."""
        op = f"max_{len(self.ops)}"
        n, h, w, c = self.values[source].shape
        shape = (n, (h - kernel[0]) // stride[0] + 1, (w - kernel[1]) // stride[1] + 1, c)
        entry = self.values[source]
        self.values[f"{op}.y"] = Value(f"{op}.y", shape, "int8", entry.qparams, entry.qmin, entry.qmax)
        self.ops.append(MaxPool2d(op, source, f"{op}.y", kernel, stride))
        return f"{op}.y"

    def flatten(self, source: str) -> str:
        """Add a reshape to (1, everything)."""
        op = f"reshape_{len(self.ops)}"
        entry = self.values[source]
        shape = (1, entry.elements)
        self.values[f"{op}.y"] = Value(f"{op}.y", shape, entry.dtype, entry.qparams, entry.qmin, entry.qmax)
        self.ops.append(Reshape(op, source, f"{op}.y"))
        return f"{op}.y"

    def build(self, output: str) -> QuantGraph:
        """The finished graph."""
        return QuantGraph(self.name, self.values, tuple(self.ops), (self.input,), (output,))

    def _activation(self, name: str, shape: tuple[int, ...], activation: str) -> Value:
        qmin, qmax, zero_point = ACTIVATION_RANGES[activation]
        value = Value(name, shape, "int8", QParams((0.02,), zero_point), qmin, qmax)
        self.values[name] = value
        return value

    def _weight(self, op: str, shape: tuple[int, ...], weight: str, extreme: bool) -> Value:
        qmin, qmax = WEIGHT_RANGES[weight]
        data = self.rng.choice([qmin, qmax], shape) if extreme else self.rng.integers(qmin, qmax + 1, shape)
        scale = tuple(self.rng.uniform(0.01, 0.02, shape[0]))
        value = Value(f"{op}.w", shape, "int8", QParams(scale), qmin, qmax, data.astype(np.int8))
        self.values[value.name] = value
        return value

    def _requantize(self, w: Value, entry: Value, output: Value):  # type: ignore[no-untyped-def]
        rows = w.codes.reshape(w.shape[0], -1)
        spread = np.sqrt((rows**2).sum(axis=1) + 1.0) * max(abs(entry.qmin), abs(entry.qmax)) / 2
        scale = (output.qmax - output.qmin) / spread / 3 * self.rng.uniform(0.5, 2.0, len(rows))
        scale *= self.rng.choice([1.0, -1.0], len(rows))
        bias = -entry.qparams.zero_point * rows.sum(axis=1) * scale + self.rng.normal(0, 10, len(rows))
        bound = accumulator_bound(w.codes, entry.qmin, entry.qmax)
        return choose_requantize(scale, bias, bound, output.qparams.zero_point, output.qmin, output.qmax)

    def _weighted(
        self, kind: type[Conv2d] | type[DepthwiseConv2d], source: str, shape: tuple[int, ...], stride: tuple[int, int],
        padding: tuple[int, int, int, int], weight: str, activation: str, extreme: bool,
    ) -> str:  # fmt: skip
        op = f"{'conv' if kind is Conv2d else 'dw'}_{len(self.ops)}"
        w = self._weight(op, shape, weight, extreme)
        entry = self.values[source]
        top, bottom, left, right = padding
        height = (entry.shape[1] + top + bottom - shape[1]) // stride[0] + 1
        width = (entry.shape[2] + left + right - shape[2]) // stride[1] + 1
        output = self._activation(f"{op}.y", (1, height, width, shape[0]), activation)
        self.ops.append(kind(op, source, w.name, output.name, stride, padding, self._requantize(w, entry, output)))
        return output.name


def residual_graph(seed: int = 0, weight: str = "4", activation: str = "u8", name: str = "random") -> QuantGraph:
    """A small network that has every operator, asymmetric padding and a residual add."""
    g = RandomGraph(seed, (9, 7, 3), name=name)
    x = g.conv(g.input, 8, (3, 3), padding=(1, 1, 1, 1), weight="8", activation=activation)
    y = g.conv(x, 8, (3, 3), padding=(1, 1, 1, 1), weight=weight, activation="s8")
    x = g.add(x, y, activation)
    x = g.conv(x, 10, (3, 3), stride=(2, 2), padding=(0, 1, 0, 1), weight=weight, activation=activation)
    x = g.depthwise(x, (3, 3), padding=(1, 1, 1, 1), weight=weight, activation=activation)
    x = g.conv(x, 12, (1, 1), weight=weight, activation=activation)
    x = g.max_pool(x, (2, 2), (1, 1))
    h, w = g.values[x].shape[1:3]
    x = g.average_pool(x, (h, w), activation="u8")
    return g.build(g.fully_connected(g.flatten(x), 5))


def random_inputs(graph: QuantGraph, count: int, seed: int = 0) -> NDArray[np.int8]:
    """Codes over the whole range of the graph's input."""
    entry = graph.values[graph.inputs[0]]
    rng = np.random.default_rng(seed)
    return rng.integers(entry.qmin, entry.qmax + 1, (count, *entry.shape[1:])).astype(np.int8)
