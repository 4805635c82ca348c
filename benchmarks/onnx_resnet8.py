"""Write MLPerf Tiny's ResNet-8 as an ONNX model in the QDQ form with int8 weights and activations, for ONNX Runtime.

`python -m benchmarks.onnx_resnet8 FILE`. Weights are random: instructions do not depend on them. Needs `onnx`.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

SCALE = 0.05
SAME = (1, 1, 1, 1)
SAME_STRIDE_2 = (0, 0, 1, 1)  # ONNX: top, left, bottom, right


@dataclass
class Builder:
    """Collects nodes and weights; every value that an operator reads has gone through QuantizeLinear."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, array: ArrayLike) -> str:
        """Name of a new initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Name of the output of a new node."""
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def requantize(self, x: str, zero_point: int = 0) -> str:
        """QuantizeLinear and DequantizeLinear with int8 codes."""
        scale, zero = self.constant(np.float32(SCALE)), self.constant(np.int8(zero_point))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, scale, zero), scale, zero)

    def weight(self, shape: tuple[int, ...]) -> tuple[str, str]:
        """Dequantized int8 weights, one scale an output channel, and their int32 bias."""
        out = shape[0]
        scale, zero = self.constant(np.full(out, 0.01, np.float32)), self.constant(np.zeros(out, np.int8))
        codes = self.constant(self.rng.integers(-127, 128, shape).astype(np.int8))
        bias_scale, bias = self.constant(np.full(out, 0.01 * SCALE, np.float32)), self.constant(np.zeros(out, np.int32))
        return (self.node("DequantizeLinear", codes, scale, zero, axis=0),
                self.node("DequantizeLinear", bias, bias_scale, axis=0))  # fmt: skip

    def conv(self, x: str, shape: tuple[int, ...], stride: int, pads: tuple[int, ...], relu: bool) -> str:
        """A convolution with OIHW weights, requantized."""
        y = self.node("Conv", x, *self.weight(shape), strides=[stride, stride], pads=list(pads))
        return self.relu(y) if relu else self.requantize(y)

    def relu(self, x: str) -> str:
        """A ReLU that ONNX Runtime can fold: its codes begin at its zero point."""
        return self.requantize(self.node("Relu", x), -128)


def resnet8() -> onnx.ModelProto:
    """The network for one 32 x 32 colour image."""
    b = Builder()
    x = b.conv(b.requantize("input"), (16, 3, 3, 3), 1, SAME, relu=True)
    y = b.conv(x, (16, 16, 3, 3), 1, SAME, relu=True)
    y = b.conv(y, (16, 16, 3, 3), 1, SAME, relu=False)
    x = b.relu(b.node("Add", x, y))
    for channels in (32, 64):
        y = b.conv(x, (channels, channels // 2, 3, 3), 2, SAME_STRIDE_2, relu=True)
        y = b.conv(y, (channels, channels, 3, 3), 1, SAME, relu=False)
        x = b.conv(x, (channels, channels // 2, 1, 1), 2, (0, 0, 0, 0), relu=False)
        x = b.relu(b.node("Add", x, y))
    x = b.requantize(b.node("GlobalAveragePool", x))
    b.node("Gemm", b.node("Flatten", x), *b.weight((10, 64)), transB=1)
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])
    result = helper.make_tensor_value_info(b.nodes[-1].output[0], TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(b.nodes, "resnet8", [entry], [result], b.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


if __name__ == "__main__":
    onnx.save(resnet8(), sys.argv[1])
