"""What a quantized training step costs against the float step of the same network in the same run.

`python -m benchmarks.train_step` times forward, backward and SGD step of ResNet-8, batch 128, one thread, for float,
our student, Brevitas and torch.ao, eager and compiled. Variants take turns, so a busy machine slows all; `ratio` is
the median over rounds of a variant's step time by the float one's of the same kind and round.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from benchmarks.record import write_record
from qkd.bits import Bits
from qkd.models import ResidualBlock, resnet8
from qkd.student import calibrate, prepare
from qkd.training_run import keep_freed_memory

SHAPE, CLASSES, BATCH = (32, 32, 3), 10, 128
TARGETS = {False: 1.6, True: 1.25}
"""Largest ratio that we allow ourselves, by compiled."""
Step = Callable[[], float]
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


def main() -> None:
    """Time all variants and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--eager-only", action="store_true", help="spare the minutes that compiling takes")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for compiled in (False,) if options.eager_only else (False, True):
        steps = {name: step_of(make(), compiled) for name, make in VARIANTS.items()}
        rows += timed(steps, compiled, options.rounds)
    print(write_record("train_step", rows, batch=BATCH, threads=1, rounds=options.rounds, bits="W4A8"))


def timed(steps: dict[str, Step], compiled: bool, rounds: int) -> list[dict[str, Any]]:
    """Rows of all variants of one kind; one that does not run has a reason instead of times."""
    reasons, running = {}, {}
    for name, step in steps.items():
        try:
            step(), step()
            running[name] = step
        except Exception as error:  # another library's failure is a result here
            if name in ("float", "ours"):
                raise
            reasons[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, step in running.items():
            seconds[name].append(step())
    common = {"net": "resnet8", "compiled": compiled, "target": TARGETS[compiled]}
    rows: list[dict[str, Any]] = [
        {
            **common,
            "quantizer": name,
            "ratio": median(own / base for own, base in zip(found, seconds["float"], strict=True)),
            "step_ms": 1e3 * median(found),
        }
        for name, found in seconds.items()
    ]
    rows += [{**common, "quantizer": n, "ratio": None, "step_ms": None, "reason": r} for n, r in reasons.items()]
    for row in rows:
        print(row, flush=True)
    return rows


def step_of(network: nn.Module, compiled: bool) -> Step:
    """A training step of a network on one batch, which gives its seconds."""
    network = network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (BATCH,))
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(network(x), y)

    chosen = torch.compile(loss, dynamic=False) if compiled else loss

    def step() -> float:
        started = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        chosen(images, labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return time.perf_counter() - started

    return step


def ours() -> nn.Module:
    """Our student."""
    student = prepare(resnet8(CLASSES, SHAPE), Bits.parse("W4A8"), SHAPE)
    calibrate(student, torch.randn(BATCH, 3, 32, 32))
    return student


def by_brevitas() -> nn.Module:
    """Brevitas' layers with its defaults: 4-bit weights, 8-bit activations."""
    import brevitas.nn as qnn

    def convolution(conv: nn.Conv2d) -> nn.Module:
        return qnn.QuantConv2d(  # type: ignore[no-any-return]
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False,
            weight_bit_width=4,
        )  # fmt: skip

    return rebuilt(convolution, lambda: qnn.QuantIdentity(bit_width=8), lambda: qnn.QuantReLU(bit_width=8))


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

if __name__ == "__main__":
    main()
