"""Quantized activations: the grid their codes lie on, and the quantizer that learns its step.

Inside the student codes are centred (zero is 0); the graph and the device store them with a zero point added.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qkd.student.quantizer import CodeRange, LearnedStep, activation_range, initial_activation_step, substitute_codes


@dataclass(frozen=True)
class Grid:
    """Where an activation's codes lie: real = step * code, stored on the device as code + zero_point."""

    step: Tensor
    codes: CodeRange
    zero_point: int

    @property
    def stored(self) -> CodeRange:
        """The range of the stored codes."""
        return CodeRange(self.codes.qmin + self.zero_point, self.codes.qmax + self.zero_point)


@dataclass(frozen=True)
class Coded:
    """An activation in exact mode: centred codes as floats (N, C, H, W) or (N, C), and their grid."""

    codes: Tensor
    grid: Grid

    def stored(self) -> Tensor:
        """The codes of the device, as int64."""
        return self.codes.detach().to(torch.int64) + self.grid.zero_point


@dataclass(frozen=True)
class Logits:
    """A classifier's output in exact mode (N, K): the device's int32, as int64, and the reals they stand for."""

    integers: Tensor
    real: Tensor


class ActivationQuantizer(LearnedStep):
    """Learned step of an activation tensor; unsigned 8-bit codes are stored around -128, all others around 0."""

    def __init__(self, bits: int, signed: bool, elements: int) -> None:
        super().__init__(activation_range(bits, signed), (), elements)
        self.zero_point = -128 if bits == 8 and not signed else 0
        self.calibrating = False

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize; while calibrating, first fit the step to `x`."""
        if self.calibrating:
            self.start_from(initial_activation_step(x, self.codes))
        return super().forward(x)

    def grid(self) -> Grid:
        """The grid at the present step."""
        return Grid(self.step(), self.codes, self.zero_point)

    def with_codes(self, y: Tensor, stored: Tensor) -> Coded:
        """The device's codes as value, with the gradients of quantizing the real `y`."""
        grid = self.grid()
        exact = (stored - self.zero_point).to(y.dtype)
        return Coded(substitute_codes(y, grid.step, self.codes, exact), grid)
