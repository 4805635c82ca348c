"""GradBoost: noise along each gradient, as large as gradients have lately been spread, fading from step to step.

Park et al. 2020 (arXiv 2006.09679). For each weight, with moving averages (decay 0.9, bias-corrected) of the running
largest and smallest |g|, in the k-th step with noise:

    S = (largest − smallest) · 0.99^k      n = |Laplace(0, 1)| · S · coin · sign(g), clipped to ±0.001      g ← g + n

Verified in the authors' code: the constants, and statistics from the first float step on. Ours, where that code looks
like slips: its running smallest starts at 0, where it stays, and its bias correction is stored and so compounds.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

DECAY = 0.9
FADING = 0.99
LARGEST_NOISE = 1e-3


class GradBoost:
    """The rule for a network's parameters; statistics are always kept, `active` says whether noise is added.

    "Running" largest and smallest are kept a parameter tensor, element by element.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.active = True
        self.boosted = 0
        self.steps: dict[int, int] = {}
        """With a gradient, of each parameter: learned steps have none before the student is quantized."""
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, generator: torch.Generator) -> None:
        """Add noise to every gradient there is."""
        self.boosted += self.active
        for number, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                spread = self._spread(number, parameter.grad.abs())
                if self.active:
                    parameter.grad.add_(self.noise(parameter.grad, spread, generator))

    def noise(self, gradient: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
        """The noise for one parameter's gradient."""
        scale = spread * FADING**self.boosted
        drawn = torch.empty_like(gradient, device="cpu")  # where the generator is; in the gradient's order of memory
        laplace = drawn.exponential_(generator=generator).to(gradient.device)  # |Laplace(0, 1)| is exponential
        coin = torch.randint(0, 2, gradient.shape, generator=generator).to(gradient.device)
        return (laplace * scale * coin * gradient.sign()).clamp(-LARGEST_NOISE, LARGEST_NOISE)

    def _spread(self, number: int, size: Tensor) -> Tensor:
        zero = torch.zeros_like(size)
        largest, smallest, average_largest, average_smallest = self.seen.get(number, (size, size, zero, zero))
        largest, smallest = torch.maximum(largest, size), torch.minimum(smallest, size)
        average_largest = average_largest.lerp(largest, 1 - DECAY)
        average_smallest = average_smallest.lerp(smallest, 1 - DECAY)
        self.seen[number] = (largest, smallest, average_largest, average_smallest)
        self.steps[number] = self.steps.get(number, 0) + 1
        return (average_largest - average_smallest) / (1 - DECAY ** self.steps[number])

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        seen = {number: list(found) for number, found in self.seen.items()}
        return {"steps": self.steps, "boosted": self.boosted, "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.steps, self.boosted = dict(state["steps"]), state["boosted"]
        for number, found in state["seen"].items():
            a, b, c, d = (moving.to(self.parameters[number].device) for moving in found)
            self.seen[number] = (a, b, c, d)
