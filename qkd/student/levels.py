"""Weights on free levels: buckets scaled to [0, 1] and rounded to even steps, or to points that are learned.

With low = min and span = max − min of a bucket, v = (w − low) / span, and w_q = span · Q(v) + low, where Q rounds to
the nearest point of a sorted vector p. Polino, Pascanu, Alistarh 2018 (arXiv 1802.05668): p is 0, 1/(s−1), …, 1 in
algorithm 1, and learned in algorithm 2, where

    ∂L/∂p_j = Σ over i with Q(v_i) = p_j of span(bucket of i) · ∂L/∂w_q,i.

The device gets codes: every level, snapped to an int8 grid of 127 steps to the largest one of its channel.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qkd.errors import InvariantError
from qkd.student.quantizer import SMALLEST_STEP, CodeRange

Bucket: TypeAlias = int | Literal["tensor", "channel"]
Initial: TypeAlias = Literal["uniform", "quantiles", "lloyd"]

SMALLEST_SPAN = 1e-10
"""Of a bucket; below it all its weights are equal, and the paper divides by 1."""
GRID = CodeRange(-127, 127)
"""Codes that levels are snapped to."""
LARGEST_TABLE = 127
"""Levels whose index fits into an int8."""
LLOYD_ROUNDS = 20


@dataclass(frozen=True)
class LevelSpec:
    """How the weights between the first and the last layer are quantized.

    Attributes
    ----------
    counts : tuple of int
        Levels of each of these layers.
    bucket : int, "tensor" or "channel"
        Weights that share low and span: so many consecutive ones, all, or an output channel's.
    learned : bool
        Whether the points are parameters; otherwise they are even.
    points_for : "tensor" or "bucket"
        What has points of its own.
    rounding : "nearest" or "stochastic"
        Stochastic rounding is unbiased; it acts in train mode and between even points only.
    gradient : "straight", "truncated" or "exact"
        What reaches the float weights: ∂L/∂w_q; that, where |w| ≤ 1; or also what flows through low and span.
    store : "indices" or "int8"
        What the device keeps in flash: indices into a table of levels, or the levels themselves.
    """

    counts: tuple[int, ...]
    bucket: Bucket = "channel"
    learned: bool = False
    points_for: Literal["tensor", "bucket"] = "tensor"
    rounding: Literal["nearest", "stochastic"] = "nearest"
    gradient: Literal["straight", "truncated", "exact"] = "straight"
    store: Literal["indices", "int8"] = "indices"


class WeightLevels(nn.Module):
    """Quantizer of one layer's weights; it takes a learned step's place there.

    Parameters
    ----------
    spec : LevelSpec
    count : int
        Levels.
    shape : tuple of int
        Of the weight, output channels first.
    """

    points: Tensor

    def __init__(self, spec: LevelSpec, count: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        if not 2 <= count <= LARGEST_TABLE:
            raise InvariantError(f"{count} levels cannot be kept in a table of 2 to {LARGEST_TABLE}")
        self.spec = spec
        self.codes = GRID
        self.snapped = False
        buckets = len(in_buckets(torch.empty(shape), spec.bucket))
        even = torch.linspace(0, 1, count).repeat(buckets if spec.points_for == "bucket" else 1, 1)
        if spec.learned:
            self.points = nn.Parameter(even)
        else:
            self.register_buffer("points", even)

    @torch.no_grad()
    def start_from(self, weight: Tensor, initial: Initial) -> None:
        """Place the points by the weights' distribution in [0, 1]."""
        scaled, _, _ = self._scaled(weight)
        pooled = scaled if self.spec.points_for == "bucket" else scaled.reshape(1, -1)
        self.points.copy_(INITIAL[initial](pooled, self.points.shape[1]))

    @torch.no_grad()
    def sort(self) -> None:
        """Put the points into order again; a step may have moved one past its neighbour."""
        self.points.copy_(self.points.sort(dim=1).values)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights on their levels, with gradients to them and to the points."""
        if self.snapped:
            return self.to_codes(weight) * self.step(weight)
        scaled, low, span = self._scaled(weight)
        chosen = self._gather(self._nearest(scaled))
        if self.training and self.spec.rounding == "stochastic" and not self.spec.learned:
            chosen = stochastic_rounding(scaled.detach(), self.points.shape[1])
        if self.spec.gradient == "exact":
            return self._unbucketed(span * (scaled + (chosen - scaled).detach()) + low, weight)
        on_levels = self._unbucketed(span.detach() * chosen + low.detach(), weight)
        through = weight
        if self.spec.gradient == "truncated":
            through = torch.where(weight.abs() <= 1, weight, weight.detach())
        return on_levels + (through - through.detach())

    @torch.no_grad()
    def step(self, weight: Tensor) -> Tensor:
        """What one code stands for: shape (O, 1, ...), or (1, 1, ...) where the whole tensor has one table."""
        rows = self._on_levels(weight).reshape(len(weight), -1)
        if self.spec.bucket == "tensor":
            rows = self._levels(weight)
        largest = rows.abs().amax(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
        return (largest / GRID.qmax).clamp(min=SMALLEST_STEP)

    def to_codes(self, weight: Tensor) -> Tensor:
        """The weights as codes of the int8 grid, as floats; gradients go straight to the weights."""
        step = self.step(weight)
        codes = (self._on_levels(weight) / step).round()
        real = weight / step
        return codes + (real - real.detach())

    @torch.no_grad()
    def table(self, weight: Tensor) -> tuple[NDArray[np.int8], NDArray[np.int8]] | None:
        """Indices of weight's shape and the codes they stand for, (L,) or (O, L); None where buckets cross channels."""
        if self.spec.store == "int8" or isinstance(self.spec.bucket, int):
            return None
        scaled, _, _ = self._scaled(weight)
        index = self._unbucketed(self._nearest(scaled), weight)
        step = self.step(weight).reshape(-1, 1)
        codes = (self._levels(weight) / step).round().clamp(GRID.qmin, GRID.qmax)  # an unused point may lie beyond
        table = codes[0] if self.spec.bucket == "tensor" else codes
        return index.to(torch.int8).numpy(), table.to(torch.int8).numpy()

    @torch.no_grad()
    def indices(self, weight: Tensor) -> Tensor:
        """The index of each weight's point."""
        scaled, _, _ = self._scaled(weight)
        return self._unbucketed(self._nearest(scaled), weight)

    def _scaled(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, k) weights in [0, 1], their buckets' low and span (B, 1)."""
        return scale_to_unit(in_buckets(weight, self.spec.bucket))

    def _nearest(self, scaled: Tensor) -> Tensor:
        """Indices (B, k) of the nearest points."""
        points = self.points.detach().expand(len(scaled), -1)
        return nearest_point(scaled.detach(), points)

    def _gather(self, index: Tensor) -> Tensor:
        """Points (B, k) by index, with gradients to them."""
        return self.points.expand(len(index), -1).gather(1, index)

    def _levels(self, weight: Tensor) -> Tensor:
        """Levels (B, L) in the weights' own unit."""
        _, low, span = self._scaled(weight)
        return span * self.points + low

    def _on_levels(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            scaled, low, span = self._scaled(weight)
            return self._unbucketed(span * self._gather(self._nearest(scaled)) + low, weight)

    @staticmethod
    def _unbucketed(rows: Tensor, weight: Tensor) -> Tensor:
        return rows.reshape(-1)[: weight.numel()].view(weight.shape)


def in_buckets(weight: Tensor, bucket: Bucket) -> Tensor:
    """A weight (O, ...) as rows (B, k); the last of k consecutive ones is filled with the tensor's last value."""
    if bucket == "tensor":
        return weight.reshape(1, -1)
    if bucket == "channel":
        return weight.reshape(len(weight), -1)
    flat = weight.reshape(-1)
    size = min(bucket, flat.numel())
    missing = -flat.numel() % size
    return torch.cat([flat, flat[-1:].expand(missing)]).reshape(-1, size)


def scale_to_unit(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linear scaling of rows (B, k): values in [0, 1], low (B, 1) and span (B, 1)."""
    low, high = rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
    span = torch.where(high - low < SMALLEST_SPAN, torch.ones_like(low), high - low)
    return (rows - low) / span, low, span


def nearest_point(scaled: Tensor, points: Tensor) -> Tensor:
    """Indices (B, k) of the nearest of each row's sorted points (B, L)."""
    between = ((points[:, 1:] + points[:, :-1]) / 2).contiguous()
    return torch.searchsorted(between, scaled.contiguous())


def stochastic_rounding(scaled: Tensor, count: int) -> Tensor:
    """Values in [0, 1] to one of the two neighbours among `count` even points; the expectation is the value."""
    steps = scaled * (count - 1)
    down = steps.floor()
    return (down + torch.bernoulli(steps - down)) / (count - 1)


def even_points(scaled: Tensor, count: int) -> Tensor:
    """0, 1/(count − 1), …, 1 for each row (B, k); → (B, count)."""
    return torch.linspace(0, 1, count, dtype=scaled.dtype).repeat(len(scaled), 1)


def quantile_points(scaled: Tensor, count: int) -> Tensor:
    """Percentiles of each row (B, k) at `count` equispaced ranks, smallest and largest included; → (B, count)."""
    ranks = torch.linspace(0, scaled.shape[1] - 1, count).round().long()
    return scaled.sort(dim=1).values[:, ranks]


def lloyd_points(scaled: Tensor, count: int) -> Tensor:
    """Points of least squared error by Lloyd's rounds, from the better of even and quantile points; → (B, count)."""
    candidates = [_lloyd(scaled, start(scaled, count)) for start in (even_points, quantile_points)]
    errors = torch.stack([_squared_error(scaled, points) for points in candidates])
    return torch.where((errors[0] <= errors[1]).unsqueeze(1), candidates[0], candidates[1])


def _lloyd(scaled: Tensor, points: Tensor) -> Tensor:
    for _ in range(LLOYD_ROUNDS):
        index = nearest_point(scaled, points)
        sums = torch.zeros_like(points).scatter_add_(1, index, scaled)
        members = torch.zeros_like(points).scatter_add_(1, index, torch.ones_like(scaled))
        points = torch.where(members > 0, sums / members.clamp(min=1), points).sort(dim=1).values
    return points


def _squared_error(scaled: Tensor, points: Tensor) -> Tensor:
    return (points.gather(1, nearest_point(scaled, points)) - scaled).square().sum(dim=1)


INITIAL: dict[Initial, Callable[[Tensor, int], Tensor]] = {
    "uniform": even_points,
    "quantiles": quantile_points,
    "lloyd": lloyd_points,
}


def allocate_points(counts: Iterable[int], gradient_norms: Iterable[float]) -> tuple[int, ...]:
    """Points a tensor by the norm of its gradient: half of its own, the rest shared in proportion; the sum stays.

    As in the authors' code, rounding's residue goes to the smallest tensor or is taken from the largest. A tensor has
    2 to 127 points, so the residue goes where there is room.
    """
    own, norms = list(counts), list(gradient_norms)
    kept = [count // 2 for count in own]
    rest = sum(own) - sum(kept)
    total = sum(norms) or 1.0
    wished = [half + round(norm / total * rest) for half, norm in zip(kept, norms, strict=True)]
    given = [min(max(2, count), LARGEST_TABLE) for count in wished]
    residue = sum(own) - sum(given)
    choose, one = (min, 1) if residue > 0 else (max, -1)
    for _ in range(abs(residue)):
        given[given.index(choose(given))] += one
    return tuple(given)
