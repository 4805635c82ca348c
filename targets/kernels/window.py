"""The geometry of operators that slide a window over their input."""

from dataclasses import dataclass
from typing import TypeAlias

from qkd.graph.graph import AveragePool2d, Conv2d, Conv2dAdd, DepthwiseConv2d, FullyConnected, MaxPool2d, QuantGraph

Weighted: TypeAlias = Conv2d | Conv2dAdd | DepthwiseConv2d | FullyConnected


Windowed: TypeAlias = Conv2d | Conv2dAdd | DepthwiseConv2d | AveragePool2d | MaxPool2d


@dataclass(frozen=True)
class Window:
    """A sliding window over an NHWC tensor of `height` × `width` × `channels`."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Top, bottom, left, right."""

    @property
    def taps(self) -> int:
        """Positions of the window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def is_pixel(self) -> bool:
        """One position without padding: the patch lies in the input already."""
        return self.taps == 1 and not any(self.padding)


def window_of(graph: QuantGraph, op: Windowed | FullyConnected) -> Window:
    """Geometry of an operator; a fully connected layer is one pixel of many channels."""
    if isinstance(op, FullyConnected):
        return Window(1, 1, graph.values[op.input].elements, 1, 1, (1, 1), (1, 1), (0, 0, 0, 0))
    _, height, width, channels = graph.values[op.input].shape
    _, out_height, out_width, _ = graph.values[op.output].shape
    if isinstance(op, AveragePool2d | MaxPool2d):
        return Window(height, width, channels, out_height, out_width, op.kernel, op.stride, (0, 0, 0, 0))
    _, kernel_height, kernel_width, _ = graph.values[op.weight].shape
    kernel = (kernel_height, kernel_width)
    return Window(height, width, channels, out_height, out_width, kernel, op.stride, op.padding)
