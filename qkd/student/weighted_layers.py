"""Layers with weights: convolution, depthwise, fully connected; `qkd.student.layers` explains the three ways to run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad, relu

from qkd.errors import UnsupportedOpError
from qkd.graph.fixed_point import BiasAdd, Requantize, choose_bias_add, choose_requantize, requantize
from qkd.graph.graph import accumulator_bound
from qkd.student.activation import ActivationQuantizer, Coded, Grid, Logits
from qkd.student.layers import Layer
from qkd.student.levels import WeightLevels
from qkd.student.quantizer import CodeRange, LearnedStep, initial_weight_step

EXACT_FLOAT32 = 2**24  # every integer up to here is a float32, so bounded sums are exact in any order
Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d


class WeightArguments(TypedDict):
    """What a layer with weights is made from; see `WeightedLayer`."""

    weight: Tensor
    bias: Tensor | None
    norm: Norm | None
    rectified: bool
    codes: CodeRange


class WeightedLayer(Layer):
    """A product with quantized weights, an optional batch norm, then codes, or int32 logits where `output` is None.

    Parameters
    ----------
    weight : Tensor of shape (O, ...)
        Copied, as is `bias`.
    bias : Tensor of shape (O,) or None
    norm : nn.BatchNorm1d, nn.BatchNorm2d or None
        The layer's own from now on.
    rectified : bool
        Whether a ReLU follows: real mode applies it, the other modes clip at code 0.
    codes : CodeRange
        Of the weights. One step a channel; logits must compare, so a layer that gives them has one for all.
    """

    product: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """The layer's sums of products; each kind of layer has its own."""

    def __init__(
        self, name: str, source: str, output: ActivationQuantizer | None, **given: Unpack[WeightArguments]
    ) -> None:
        super().__init__(name, (source,), output)
        weight, bias = given["weight"], given["bias"]
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.norm = given["norm"]
        self.rectified = given["rectified"]
        channels = 1 if output is None else weight.shape[0]
        shape = (channels, *[1] * (weight.dim() - 1))
        self.weight_step: LearnedStep | WeightLevels = LearnedStep(given["codes"], shape, weight.numel() // channels)

    def start_weight_step(self) -> None:
        """Fit the weight's steps to the weights as they are now."""
        if not bool(torch.isfinite(self.weight).all()):
            raise UnsupportedOpError(f"the weights of {self.name} hold NaN or infinity; train again with a lower rate")
        if isinstance(self.weight_step, LearnedStep):
            codes = self.weight_step.codes
            self.weight_step.start_from(initial_weight_step(self.weight, codes, self.output is not None))

    def weight_scale(self) -> Tensor:
        """What one code of the weights stands for: (O, 1, ...) or (1, 1, ...)."""
        quantizer = self.weight_step
        return quantizer.step() if isinstance(quantizer, LearnedStep) else quantizer.step(self.weight)

    def real(self, x: Tensor) -> Tensor:
        """Float in, float out."""
        y = self._normed(self.product(x, self.weight, self.bias))
        return relu(y) if self.rectified else y

    def fake(self, x: Tensor) -> Tensor:
        """Fake-quantized in, fake-quantized out; logits stay float."""
        y = self._normed(self.product(x, self.weight_step(self.weight), self.bias))
        return y if self.output is None else self.output(y)

    def exact(self, x: Coded) -> Coded | Logits:
        """Codes in, codes or logits out."""
        acc = self._accumulate(x)
        zeros = x.grid.zero_point * self._code_sums()
        stored = acc.detach().to(torch.int64) + _broadcast(torch.from_numpy(zeros), acc)
        scale, shift = self.folded(x.grid)
        y = (acc * _broadcast(scale.to(acc.dtype), acc) + _broadcast(shift.to(acc.dtype), acc)).float()
        epilogue = self.epilogue(x.grid)
        offset = _broadcast(torch.tensor(epilogue.offset), acc)
        if isinstance(epilogue, Requantize):
            multiplier = _broadcast(torch.tensor(epilogue.multiplier), acc)
            return self.quantizer().with_codes(y, requantize(stored, epilogue, multiplier, offset))
        integers = (stored << epilogue.pre_shift) + offset
        real = (integers * (scale.detach() / 2**epilogue.pre_shift)).float()
        return Logits(integers, y + (real - y).detach())

    def weight_codes(self) -> NDArray[np.int64]:
        """The integers that the weights stand for, in torch's order of axes."""
        return self.weight_step.to_codes(self.weight).detach().to(torch.int64).numpy()

    def folded(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """Float64 (scale, shift) of each channel: real output = accumulator of centred codes * scale + shift."""
        scale, shift = self._affine()
        return scale * grid.step.double() * self.weight_scale().double().reshape(-1), shift

    def epilogue(self, grid: Grid) -> Requantize | BiasAdd:
        """The integers that turn accumulators of stored codes into the output, given the input's grid."""
        bound = accumulator_bound(self.weight_codes(), grid.stored.qmin, grid.stored.qmax)
        zeros = grid.zero_point * self._code_sums().astype(np.float64)
        scale, shift = (t.detach().numpy() for t in self.folded(grid))
        if self.output is None:
            return choose_bias_add(shift / scale - zeros, bound)
        out = self.output.grid()
        scale, shift = scale / out.step.item(), shift / out.step.item()
        return choose_requantize(
            scale, shift - zeros * scale, bound, out.zero_point, out.stored.qmin, out.stored.qmax
        )  # fmt: skip

    def _normed(self, y: Tensor) -> Tensor:
        return y if self.norm is None else self.norm(y)

    def _affine(self) -> tuple[Tensor, Tensor]:
        """Bias and batch norm as float64 (scale, shift) of the product, from the running statistics."""
        bias = torch.zeros(len(self.weight)) if self.bias is None else self.bias
        if self.norm is None:
            return torch.ones(len(self.weight), dtype=torch.float64), bias.double()
        mean, variance = self.norm.running_mean, self.norm.running_var
        if mean is None or variance is None:
            raise UnsupportedOpError(f"the batch norm of {self.name} keeps no running statistics; build it with them")
        scale = self.norm.weight.double() / torch.sqrt(variance.double() + self.norm.eps)
        return scale, self.norm.bias.double() + (bias.double() - mean.double()) * scale

    def _accumulate(self, x: Coded) -> Tensor:
        """Sums over centred codes, exact: float64 where float32 might round."""
        weight = self.weight_step.to_codes(self.weight)
        bound = accumulator_bound(weight.detach().to(torch.int64).numpy(), 0, x.grid.codes.magnitude)
        dtype = torch.float32 if bound < EXACT_FLOAT32 else torch.float64
        return self.product(x.codes.to(dtype), weight.to(dtype), None)

    def _code_sums(self) -> NDArray[np.int64]:
        codes = self.weight_codes()
        return np.asarray(codes.reshape(len(codes), -1).sum(axis=1))


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over the image; padding is (left, right, top, bottom), as torch pads."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int


def zero_pad(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Zeros around images (N, C, H, W), with a slice as gradient.

    torch's own gradient pads by negative numbers, which compiled code loads under a mask, once for every use: that took
    a third of ResNet-8's quantized step.
    """
    out: Tensor = _ZeroPad.apply(x, padding)  # type: ignore[no-untyped-call]
    return out


class _ZeroPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
        left, _, top, _ = padding
        ctx.inner = slice(top, top + x.shape[2]), slice(left, left + x.shape[3])
        return pad(x, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows, columns = ctx.inner
        return grad[:, :, rows, columns], None


class ConvLayer(WeightedLayer):
    """Conv2d, or DepthwiseConv2d where there are as many groups as channels."""

    def __init__(
        self, name: str, source: str, output: ActivationQuantizer, geometry: Geometry,
        **given: Unpack[WeightArguments],
    ) -> None:  # fmt: skip
        super().__init__(name, source, output, **given)
        self.geometry = geometry

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved on its own; with one channel either name is right, and this is cheaper."""
        return self.geometry.groups == self.weight.shape[0] > 1

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolution; padding is code 0, which the device stores as the input's zero point."""
        stride, groups = self.geometry.stride, self.geometry.groups
        left, right, top, bottom = self.geometry.padding
        if left == right and top == bottom:
            return conv2d(x, weight, bias, stride, (top, left), groups=groups)
        return conv2d(zero_pad(x, self.geometry.padding), weight, bias, stride, groups=groups)


class LinearLayer(WeightedLayer):
    """FullyConnected."""

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Matrix product (N, I) x (O, I) transposed."""
        return linear(x, weight, bias)


def _broadcast(per_channel: Tensor, like: Tensor) -> Tensor:
    """(C,) against (N, C) or (N, C, H, W)."""
    return per_channel.reshape(1, -1, *[1] * (like.dim() - 2))
