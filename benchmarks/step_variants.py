"""ResNet-8 in float and as quantized by our student and by other libraries, for `benchmarks.train_step`."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from qkd.bits import Bits
from qkd.student.models import ResidualBlock, resnet8
from qkd.student.student import calibrate, prepare

SHAPE, CLASSES, BATCH = (32, 32, 3), 10, 128
Make = Callable[[], nn.Module]


class QuantizedBlock(nn.Module):
    """A residual block whose branches and sum are quantized by another library's modules."""

    def __init__(self, block: ResidualBlock, signed: Make, rectified: Make) -> None:
        super().__init__()
        self.block, self.left, self.right, self.out = block, signed(), signed(), rectified()

    def forward(self, x: Tensor) -> Tensor:
        """As the float block, with three quantizers."""
        left = self.left(self.block.conv2(self.block.conv1(x)))
        return self.out(left + self.right(self.block.shortcut(x)))  # type: ignore[no-any-return]


class AoConv(nn.Conv2d):
    """A convolution with torch.ao's fake quantization of its weights."""

    weight_quantizer: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Convolution with fake-quantized weights."""
        weight = self.weight_quantizer(self.weight)
        return conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def ours() -> nn.Module:
    """Our student."""
    student = prepare(resnet8(CLASSES, SHAPE), Bits.parse("W4A8"), SHAPE)
    calibrate(student, torch.randn(BATCH, 3, 32, 32))
    return student


def by_brevitas() -> nn.Module:
    """Brevitas' layers with its defaults: 4-bit weights, 8-bit activations.

    Only the first step gathers statistics of activations, not the first 300: a long training pays what comes after,
    and torch compiles a step anew for each value of Brevitas' counter.
    """
    import brevitas.nn as qnn

    activation = {"bit_width": 8, "collect_stats_steps": 1}

    def convolution(conv: nn.Conv2d) -> nn.Module:
        return qnn.QuantConv2d(  # type: ignore[no-any-return]
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False,
            weight_bit_width=4,
        )  # fmt: skip

    return rebuilt(convolution, lambda: qnn.QuantIdentity(**activation), lambda: qnn.QuantReLU(**activation))


def by_torch_ao() -> nn.Module:
    """torch.ao's fake quantization: 4-bit weights per channel, 8-bit activations."""
    from torch.ao.quantization import (
        FakeQuantize,
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )

    def convolution(conv: nn.Conv2d) -> nn.Module:
        own = AoConv(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)  # type: ignore[arg-type]
        own.weight_quantizer = FakeQuantize(
            MovingAveragePerChannelMinMaxObserver, quant_min=-8, quant_max=7, dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric, ch_axis=0,
        )  # type: ignore[no-untyped-call]  # fmt: skip
        return own

    def activation() -> nn.Module:
        return FusedMovingAvgObsFakeQuantize(MovingAverageMinMaxObserver, 0, 255, dtype=torch.quint8)  # type: ignore[no-untyped-call]

    return rebuilt(convolution, activation, lambda: nn.Sequential(nn.ReLU(), activation()))


def rebuilt(convolution: Callable[[nn.Conv2d], nn.Module], signed: Make, rectified: Make) -> nn.Module:
    """ResNet-8 with another library's convolutions and activations."""
    return _replaced(resnet8(CLASSES, SHAPE), convolution, signed, rectified)


def _replaced(
    module: nn.Module, convolution: Callable[[nn.Conv2d], nn.Module], signed: Make, rectified: Make
) -> nn.Module:  # fmt: skip
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            setattr(module, name, convolution(child))
        elif isinstance(child, nn.ReLU):
            setattr(module, name, rectified())
        else:
            _replaced(child, convolution, signed, rectified)
            if isinstance(child, ResidualBlock):
                setattr(module, name, QuantizedBlock(copy.deepcopy(child), signed, rectified))
    return module


VARIANTS: dict[str, Make] = {
    "float": lambda: resnet8(CLASSES, SHAPE),
    "ours": ours,
    "brevitas": by_brevitas,
    "torch.ao": by_torch_ao,
}
