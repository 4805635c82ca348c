"""What a low-bit number is: ranges of codes, the learned step with its gradients, initial steps by least squares.

A step is learned as in LSQ (Esser et al. 2019, arXiv 1902.08153). With v = x / s and the codes' range [qmin, qmax]:

    x̂ = s · round(clamp(v, qmin, qmax))
    ∂x̂/∂x = 1 where qmin < v < qmax, else 0
    ∂x̂/∂s = round(v) − v where qmin < v < qmax, else qmin or qmax; times 1 / √(N · qmax)

Ternary is the same quantizer on the levels −1, 0, 1.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

SMALLEST_STEP = 2.0**-30  # a channel whose weights are all zero still has a step
FLOOR_FRACTION = 0.25  # of the initial step: below it a step shrinks ever more slowly and never reaches zero
CLIP_FRACTIONS = tuple(i / 64 for i in range(4, 65))  # of the largest magnitude: candidates for the clipping point
CALIBRATION_SAMPLES = 1 << 18  # values of an activation that its initial step is fitted to


@dataclass(frozen=True)
class CodeRange:
    """Codes before a zero point is added: qmin..qmax."""

    qmin: int
    qmax: int

    @property
    def magnitude(self) -> int:
        """The largest absolute code."""
        return max(abs(self.qmin), abs(self.qmax))


def weight_range(bits: int | Literal["ternary"]) -> CodeRange:
    """Codes of weights: symmetric, except for 2 bits, where a fourth level is worth more than symmetry.

    >>> weight_range(4), weight_range(2), weight_range("ternary")
    (CodeRange(qmin=-7, qmax=7), CodeRange(qmin=-2, qmax=1), CodeRange(qmin=-1, qmax=1))
    """
    if bits == "ternary":
        return CodeRange(-1, 1)
    return CodeRange(-2, 1) if bits == 2 else CodeRange(1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def activation_range(bits: int, signed: bool) -> CodeRange:
    """Codes of activations: unsigned after a ReLU, signed otherwise."""
    return CodeRange(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else CodeRange(0, 2**bits - 1)


def to_codes(x: Tensor, step: Tensor, codes: CodeRange) -> Tensor:
    """Codes of `x` as floats, with the gradients of the module's docstring (before their scale).

    Parameters
    ----------
    x : float tensor
    step : float tensor broadcastable against `x`, positive
    codes : CodeRange

    Returns
    -------
    float tensor of x's shape
        Whole numbers in [qmin, qmax].

    Notes
    -----
    A plain expression rather than an autograd function, so that torch.compile fuses it with its neighbours.
    """
    v = x / step
    inside = (v > codes.qmin) & (v < codes.qmax)  # strict, as in the paper: at an edge the step gets the edge
    clipped = torch.where(inside, v, v.detach().clamp(codes.qmin, codes.qmax))
    # exact in any binary float type: round(c) - c has no rounding error, nor has adding it to c
    return clipped + (clipped.round() - clipped).detach()


def fake_quantize(x: Tensor, step: Tensor, codes: CodeRange) -> Tensor:
    """`x` rounded to the grid of `step` and clipped to `codes`; gradients as in the module's docstring.

    One node with a backward pass of its own, which spares the temporaries of `to_codes(x, step, codes) * step`;
    torch.compile looks inside and fuses it with its neighbours.
    """
    out: Tensor = _FakeQuantize.apply(x, step, codes.qmin, codes.qmax)  # type: ignore[no-untyped-call]
    return out


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
        v = x / step
        rounded = v.round().clamp(qmin, qmax)
        ctx.save_for_backward(v, rounded, step)
        ctx.range = qmin, qmax
        return rounded * step

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        v, rounded, step = ctx.saved_tensors
        grad_x = torch.ops.aten.hardtanh_backward(grad, v, *ctx.range)  # where qmin < v < qmax, in one pass
        if step.dim() > 0:
            others = [axis for axis in range(grad.dim()) if step.shape[axis] == 1]
            grad_step = (grad * rounded - grad_x * v).sum(others, keepdim=True)
        elif torch.compiler.is_compiling():
            # first over the axes that batch norm's gradients are summed over: all these sums become one loop
            axes = [axis for axis in range(grad.dim()) if axis != 1]
            grad_step = (grad * rounded - grad_x * v).sum(axes, dtype=torch.float32).sum()
        else:
            grad_step = _inner(grad, rounded) - _inner(grad_x, v)
        return grad_x, grad_step, None, None


def substitute_codes(x: Tensor, step: Tensor, codes: CodeRange, exact: Tensor) -> Tensor:
    """`exact` as value, with the gradients of `to_codes(x, step, codes)`; the step is one number."""
    out: Tensor = _SubstituteCodes.apply(x, step, codes, exact)  # type: ignore[no-untyped-call]
    return out


class _SubstituteCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, codes: CodeRange, exact: Tensor) -> Tensor:
        ctx.save_for_backward(x / step, step)
        ctx.codes = codes
        return exact

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        v, step = ctx.saved_tensors
        grad_x = grad * ((v > ctx.codes.qmin) & (v < ctx.codes.qmax)) / step
        return grad_x, -_inner(grad_x, v), None, None


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products over all elements; a dot product where both lie in memory alike, which they mostly do."""
    if a.dim() == 4:  # channels last is flat memory in this order
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)  # bfloat16 would not hold the sum
    return torch.dot(a.reshape(-1).to(wide), b.reshape(-1).to(wide))


class _ScaleGradient(torch.autograd.Function):
    """The same value with a scaled gradient; `s * g + (s - s * g).detach()` would move s by an ulp."""

    @staticmethod
    def forward(x: Tensor, scale: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


def positive(raw: Tensor, floor: Tensor) -> Tensor:
    """`raw` itself above `floor`, `floor² / (2 · floor − raw)` below: smooth, and positive whatever `raw` is.

    Plain LSQ lets steps cross zero: the layer dies without a NaN. This form leaves the paper's dynamics alone where
    a step is healthy, and has no exponential that compilers could round differently.
    """
    return torch.where(raw > floor, raw, floor * floor / (2 * floor - torch.minimum(raw, floor)))


class LearnedStep(nn.Module):
    """A positive step, one or one a channel, learned with LSQ's gradient scale 1 / √(N · qmax).

    Parameters
    ----------
    codes : CodeRange
    shape : tuple of int
        Broadcastable against what is quantized; () for one step.
    elements : int
        N: weights that share a step, or features of an activation in one sample.
    """

    floor: Tensor

    def __init__(self, codes: CodeRange, shape: tuple[int, ...], elements: int) -> None:
        super().__init__()
        self.codes = codes
        self.gradient_scale = 1 / math.sqrt(elements * codes.qmax)
        self.raw = nn.Parameter(torch.ones(shape))
        self.register_buffer("floor", torch.full(shape, FLOOR_FRACTION))

    @torch.no_grad()
    def start_from(self, step: Tensor) -> None:
        """Set the step."""
        step = step.reshape(self.raw.shape).clamp(min=SMALLEST_STEP)
        self.raw.copy_(step)
        self.floor.copy_(step * FLOOR_FRACTION)

    def step(self) -> Tensor:
        """The step: one definition for training, exact mode and freeze."""
        scaled: Tensor = _ScaleGradient.apply(self.raw, self.gradient_scale)  # type: ignore[no-untyped-call]
        return positive(scaled, self.floor)

    def spacing(self, x: Tensor) -> Tensor:
        """How far the centres of neighbouring codes lie apart around each element of `x`."""
        return self.step()

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize."""
        return fake_quantize(x, self.step(), self.codes)

    def to_codes(self, x: Tensor) -> Tensor:
        """Codes as floats."""
        return to_codes(x, self.spacing(x), self.codes)


@torch.no_grad()
def ternary_step(weight_OK: Tensor) -> Tensor:
    """Scale of ternary weights for each row that leaves the smallest squared error; shape (O, K) → (O, 1).

    Keeping the k largest magnitudes, at their mean, leaves Σw² − (Σ kept)² / k: equation 5 of Ternary Weight Networks
    (Li, Zhang, Liu 2016, arXiv 1605.04711), which is searched here. The paper's 0.7 · E|w| approximates its threshold.
    """
    sums = weight_OK.abs().sort(dim=1, descending=True).values.cumsum(dim=1)
    kept = torch.arange(1, sums.shape[1] + 1, dtype=sums.dtype, device=sums.device)
    best = (sums.square() / kept).argmax(dim=1, keepdim=True)
    return sums.gather(1, best) / (best + 1)


@torch.no_grad()
def least_squares_step(x_OK: Tensor, codes: CodeRange) -> Tensor:
    """The step of each row that leaves the smallest squared error among 61 clipping points; (O, K) → (O, 1)."""
    largest = x_OK.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST_STEP)
    best_step, best_error = largest, torch.full_like(largest, torch.inf)
    for fraction in CLIP_FRACTIONS:
        step = largest * fraction / codes.qmax
        error = (fake_quantize(x_OK, step, codes) - x_OK).square().sum(dim=1, keepdim=True)
        best_step = torch.where(error < best_error, step, best_step)
        best_error = torch.minimum(error, best_error)
    return best_step


def initial_weight_step(weight: Tensor, codes: CodeRange, per_channel: bool) -> Tensor:
    """Where a weight's step starts: where the squared error is least; (O, ...) → (O, 1) or (1, 1)."""
    rows = weight.detach().reshape(weight.shape[0] if per_channel else 1, -1)
    return ternary_step(rows) if codes.magnitude == 1 else least_squares_step(rows, codes)


def initial_activation_step(x: Tensor, codes: CodeRange) -> Tensor:
    """Where an activation's step starts: least squares over (a regular sample of) a batch; → ()."""
    flat = x.detach().float().reshape(-1)
    stride = -(-flat.numel() // CALIBRATION_SAMPLES)
    return least_squares_step(flat[::stride].reshape(1, -1), codes).reshape(())
