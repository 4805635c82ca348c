"""Ternary weights that become +1 and −1 beyond thresholds of their own, one a side and channel.

Codes stay −1, 0, 1 and a channel keeps one step s, so the device sees no difference; what is free is where a weight
leaves 0: at half of a learned interval, a above zero and b below it. With v = w / a where w > 0, w / b elsewhere,

    ŵ = s · round(clamp(v, −1, 1))
    ∂ŵ/∂w = s / a or s / b where |v| < 1, else 0          ∂ŵ/∂s = round(clamp(v, −1, 1))
    ∂ŵ/∂a = −v · s / a where 0 < v < 1, else 0            ∂ŵ/∂b = −v · s / b where −1 < v ≤ 0, else 0

This is the generalised straight-through estimator of N2UQ (Liu et al. 2022, arXiv 2111.14826) for three levels. With
a = b = s it is the learned step of `qkd.student.quantizer`: same value, and the gradients to s, a and b sum to LSQ's.
Verified in the paper's abstract: learned thresholds, even levels. Ours: it is applied to ternary weights, intervals are
positive by construction and have LSQ's gradient scale, and they start at the step, which errs least. Measured on
digits: no gain (`python -m benchmarks.quantizers`). Behind a batch norm a channel's scale is free, so that LSQ's step
already learns one threshold, and a second one adds little.
"""

import torch
from torch import Tensor

from qkd.student.quantizer import CodeRange, LearnedStep


class AsymmetricTernary(LearnedStep):
    """A learned step with a learned interval on each side of zero, all with the same shape and gradient scale."""

    def __init__(self, codes: CodeRange, shape: tuple[int, ...], elements: int) -> None:
        super().__init__(codes, shape, elements)
        self.above = LearnedStep(codes, shape, elements)
        self.below = LearnedStep(codes, shape, elements)

    def start_from(self, step: Tensor) -> None:
        """Set the step, and both intervals to it: the thresholds of least squared error lie at half of the step."""
        super().start_from(step)
        self.above.start_from(step)
        self.below.start_from(step)

    def spacing(self, x: Tensor) -> Tensor:
        """The interval of each element's side."""
        return torch.where(x > 0, self.above.step(), self.below.step())

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize."""
        return self.to_codes(x) * self.step()
