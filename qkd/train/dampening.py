"""Oscillation dampening: weights that swing between two codes are pulled into the middle of the one they have.

Nagel et al. 2022 (arXiv 2203.11086) add to the loss, with λ rising from 0 and ŵ a constant,

    λ · Σ (clip(w) − ŵ)²,   whose gradient is 2 λ (w − ŵ) inside of the quantizer's range and 0 elsewhere.

That gradient is added here after the backward pass, which equals adding the loss and costs no graph. Verified in the
authors' code: the detached ŵ, the clipping, a cosine from 0 to λ = 0.1 over the last three quarters of the training.
Not verified: that the paper sums over weights as we do; the code's default averages over each kernel. Ours: inner
layers with learned steps only, in every pass that trains a quantized student. Measured on digits: no gain
(`python -m benchmarks.quantizers`); the authors met oscillation in large depthwise-separable networks.
"""

import math
from collections.abc import Iterable

import torch
from torch import nn

from qkd.student.quantizer import LearnedStep
from qkd.student.student import QuantStudent
from qkd.student.weighted_layers import WeightedLayer

QUIET_SHARE = 0.25
"""Of a pass, at its start, in which weights may swing."""


def dampening_strength(progress: float, final: float) -> float:
    """λ at `progress` in [0, 1] of a pass."""
    risen = max(0.0, progress - QUIET_SHARE) / (1 - QUIET_SHARE)
    return final * 0.5 * (1 - math.cos(math.pi * risen))


def dampen(networks: Iterable[nn.Module], strength: float) -> None:
    """Add the dampening loss's gradient to every quantized student, unless it computes with float weights."""
    if strength == 0:
        return
    for network in networks:
        if isinstance(network, QuantStudent) and network.mode != "real":
            for layer in network.inner():
                _dampen_layer(layer, strength)


@torch.no_grad()
def _dampen_layer(layer: WeightedLayer, strength: float) -> None:
    quantizer, weight = layer.weight_step, layer.weight
    if not isinstance(quantizer, LearnedStep) or weight.grad is None:
        return
    spacing = quantizer.spacing(weight)
    v = weight / spacing
    inside = (v > quantizer.codes.qmin) & (v < quantizer.codes.qmax)
    weight.grad.add_((weight - v.round() * spacing) * inside, alpha=2 * strength)
