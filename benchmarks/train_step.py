"""What a quantized training step costs against the float step of the same network in the same run.

`python -m benchmarks.train_step` times forward, backward and SGD step of ResNet-8, batch 128, one thread, for float,
our student, Brevitas and torch.ao, eager and compiled, in float32 and under bfloat16 autocast. Times are the process's
own CPU time: on one thread and an idle machine that is wall time, and other jobs do not count in it. Variants take
turns, so what those jobs do to the caches slows all; `ratio` is the median over rounds of a variant's step time by the
float one's of the same kind and round; `all_ms` holds every step. Rows that a run does not measure again are kept.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy

from benchmarks.record import kept_rows, write_record
from qkd.bits import Bits
from qkd.models import ResidualBlock, resnet8
from qkd.student import calibrate, prepare
from qkd.training import FUSION
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


@dataclass(frozen=True)
class Kind:
    """What all variants of one comparison share."""

    compiled: bool
    precision: str

    def __str__(self) -> str:
        return f"{'compiled' if self.compiled else 'eager'}-{self.precision}"

    def columns(self) -> dict[str, Any]:
        """What every row of this kind says."""
        target = TARGETS[self.compiled] if self.precision == "float32" else None
        return {"net": "resnet8", "compiled": self.compiled, "precision": self.precision, "target": target}


KINDS = {str(kind): kind for kind in (Kind(c, p) for p in ("float32", "bfloat16") for c in (False, True))}


def main() -> None:
    """Time variants and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="compiling takes minutes")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="float is always timed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for kind in (KINDS[name] for name in options.kinds):
        torch.compiler.reset()
        starts = {name: step_of(make, kind) for name, make in VARIANTS.items() if name in ("float", *options.variants)}
        rows += timed(starts, kind, options.rounds)
        kept = kept_rows("train_step", rows, ("compiled", "precision", "quantizer"))
        print(write_record(
            "train_step", kept + rows, batch=BATCH, threads=1, bits="W4A8", clock="process CPU time",
        ), flush=True)  # fmt: skip


def timed(starts: dict[str, Callable[[], Step]], kind: Kind, rounds: int) -> list[dict[str, Any]]:
    """Rows of all variants of one kind; one that does not run has a reason instead of times."""
    reasons, running = {}, {}
    for name, start in starts.items():
        try:
            step = start()
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
    rows: list[dict[str, Any]] = [
        {
            **kind.columns(),
            "quantizer": name,
            "ratio": median(own / base for own, base in zip(found, seconds["float"], strict=True)),
            "step_ms": 1e3 * median(found),
            "all_ms": [round(1e3 * value, 1) for value in found],
        }
        for name, found in seconds.items()
    ]
    rows += [
        {**kind.columns(), "quantizer": n, "ratio": None, "step_ms": None, "reason": r} for n, r in reasons.items()
    ]
    for row in rows:
        print(row, flush=True)
    return rows


def step_of(make: Make, kind: Kind) -> Callable[[], Step]:
    """What builds a network and gives its training step on one batch; a step gives its own CPU seconds."""

    def start() -> Step:
        network = make().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.randn(BATCH, 3, 32, 32).to(memory_format=torch.channels_last)
        labels = torch.randint(0, CLASSES, (BATCH,))
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, nesterov=True)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(network(x), y)

        chosen = torch.compile(loss, dynamic=False, options=dict(FUSION)) if kind.compiled else loss

        def step() -> float:
            started = time.process_time()
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16) if kind.precision == "bfloat16" else nullcontext():
                value = chosen(images, labels)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            return time.process_time() - started

        return step

    return start


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
