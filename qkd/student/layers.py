"""The layers of a quantized student: each mirrors one operator of a QuantGraph and computes it in three ways.

real     float, no quantizer: the network that was traced
fake     fake-quantized: what is trained; batch norm is a layer of its own, with the statistics of the batch
exact    integer codes carried in floats: what the device computes, to the bit, with gradients through the float path

`epilogue` gives the integers of the fixed-point arithmetic. Exact mode and `freeze` both call it, so they agree.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from qkd.errors import UnsupportedOpError
from qkd.graph.fixed_point import AddRescale, Requantize, add_rescaled, choose_add, choose_requantize, requantize
from qkd.student.activation import ActivationQuantizer, Coded, Grid, Logits


class Layer(nn.Module):
    """What all layers share: a name, the names of the layers they read, and a quantizer unless codes pass unchanged."""

    real: Callable[..., Tensor]
    fake: Callable[..., Tensor]
    exact: Callable[..., Coded | Logits]

    def __init__(self, name: str, sources: tuple[str, ...], output: ActivationQuantizer | None) -> None:
        super().__init__()
        self.name = name
        self.sources = sources
        self.output = output

    def quantizer(self) -> ActivationQuantizer:
        """The output's quantizer, of layers that have one."""
        if self.output is None:
            raise UnsupportedOpError(f"{self.name} has no output codes; only the last layer may give logits")
        return self.output


class AddLayer(Layer):
    """Add of two activations, and a ReLU where its codes are unsigned."""

    def __init__(self, name: str, sources: tuple[str, str], output: ActivationQuantizer, rectified: bool) -> None:
        super().__init__(name, sources, output)
        self.rectified = rectified

    def real(self, a: Tensor, b: Tensor) -> Tensor:
        """Float in, float out."""
        return relu(a + b) if self.rectified else a + b

    def fake(self, a: Tensor, b: Tensor) -> Tensor:
        """Fake-quantized in, fake-quantized out."""
        return self.quantizer()(a + b)  # type: ignore[no-any-return]

    def exact(self, a: Coded, b: Coded) -> Coded:
        """Codes in, codes out."""
        y = a.codes * a.grid.step + b.codes * b.grid.step
        total: Tensor = add_rescaled(a.stored(), b.stored(), self.epilogue(a.grid, b.grid))
        return self.quantizer().with_codes(y, total)

    def epilogue(self, a: Grid, b: Grid) -> AddRescale:
        """The integers of the device's add."""
        out = self.quantizer().grid()
        scale_a, scale_b = (grid.step.item() / out.step.item() for grid in (a, b))
        zero_points = (a.zero_point, b.zero_point, out.zero_point)
        return choose_add(scale_a, scale_b, zero_points, out.stored.qmin, out.stored.qmax)


class AveragePoolLayer(Layer):
    """AveragePool2d without padding."""

    def __init__(
        self, name: str, source: str, output: ActivationQuantizer, kernel: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        super().__init__(name, (source,), output)
        self.kernel = kernel
        self.stride = stride

    def real(self, x: Tensor) -> Tensor:
        """Float in, float out."""
        return avg_pool2d(x, self.kernel, self.stride)

    def fake(self, x: Tensor) -> Tensor:
        """Fake-quantized in, fake-quantized out."""
        return self.quantizer()(self.real(x))  # type: ignore[no-any-return]

    def exact(self, x: Coded) -> Coded:
        """Codes in, codes out."""
        taps = self.kernel[0] * self.kernel[1]
        sums = avg_pool2d(x.codes, self.kernel, self.stride, divisor_override=1)
        stored = sums.detach().to(torch.int64) + x.grid.zero_point * taps
        epilogue = self.epilogue(x.grid)
        multiplier, offset = torch.tensor(epilogue.multiplier), torch.tensor(epilogue.offset)
        out = requantize(stored, epilogue, multiplier, offset)
        return self.quantizer().with_codes(sums * (x.grid.step / taps), out)

    def epilogue(self, grid: Grid) -> Requantize:
        """The integers of the device's division."""
        taps = self.kernel[0] * self.kernel[1]
        out = self.quantizer().grid()
        scale = np.array([grid.step.item() / (taps * out.step.item())])
        bias = -grid.zero_point * taps * scale
        bound = grid.stored.magnitude * taps
        return choose_requantize(scale, bias, bound, out.zero_point, out.stored.qmin, out.stored.qmax)


class MaxPoolLayer(Layer):
    """MaxPool2d without padding; codes pass unchanged."""

    def __init__(self, name: str, source: str, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__(name, (source,), None)
        self.kernel = kernel
        self.stride = stride

    def real(self, x: Tensor) -> Tensor:
        """The largest value of each window."""
        return max_pool2d(x, self.kernel, self.stride)

    fake = real

    def exact(self, x: Coded) -> Coded:
        """The largest code of each window."""
        return Coded(self.real(x.codes), x.grid)


class FlattenLayer(Layer):
    """Reshape to (N, K) in the device's order: channels run fastest."""

    def __init__(self, name: str, source: str) -> None:
        super().__init__(name, (source,), None)

    def real(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H * W * C)."""
        return x.permute(0, 2, 3, 1).flatten(1)

    fake = real

    def exact(self, x: Coded) -> Coded:
        """The same codes."""
        return Coded(self.real(x.codes), x.grid)
