"""How weights move: learning rates over a pass, groups of parameters, and the optimisers a pass can ask for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from qkd.errors import RecipeError
from qkd.recipe import TrainSpec
from qkd.student.levels import WeightLevels
from qkd.student.quantizer import LearnedStep
from qkd.train.state import Role

OptimiserName: TypeAlias = Literal["sgd", "rmsprop", "adam", "adamw"]


@dataclass(frozen=True, eq=False)
class Learner:
    """A network that a pass trains: its own copy, and what multiplies the rates of its steps and learned points."""

    network: nn.Module
    learning_rate: float
    step_rate: float = 1.0
    point_rate: float = 0.05
    """As `quantization_points` has it: a pass behind that one goes on training its points."""
    batch_statistics: bool = True
    """False: batch norm normalises by its running statistics and leaves them as they are; dropout is off."""


def one_cycle(progress: float, warmup: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: a linear rise over `warmup`, then a cosine to 0.

    After the one-cycle policy of Smith and Topin (arXiv 1708.07120), with the rate rising from 0.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def parameter_groups(learners: Mapping[Role, Learner], weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay; norms and biases without; learned steps and points without and at their own rates."""
    groups = []
    for learner in learners.values():
        steps, points = (_inside(learner.network, kind) for kind in (LearnedStep, WeightLevels))
        trained = [p for p in learner.network.parameters() if p.requires_grad]
        others = [p for p in trained if id(p) not in steps | points]
        rate = learner.learning_rate
        groups += [
            {"params": [p for p in others if p.dim() > 1], "peak": rate, "weight_decay": weight_decay},
            {"params": [p for p in others if p.dim() <= 1], "peak": rate, "weight_decay": 0.0},
            {"params": [p for p in trained if id(p) in steps], "peak": rate * learner.step_rate, "weight_decay": 0.0},
            {"params": [p for p in trained if id(p) in points], "peak": rate * learner.point_rate, "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise RecipeError(
            f"the {' and the '.join(learners)} has no parameter to train: all are frozen (requires_grad is False); "
            "give its parameters gradients in the function that builds it, or leave the pass out"
        )
    return groups


def _inside(network: nn.Module, kind: type[nn.Module]) -> set[int]:
    return {id(p) for module in network.modules() if isinstance(module, kind) for p in module.parameters()}


def make_optimiser(name: OptimiserName, groups: list[dict[str, Any]], settings: TrainSpec) -> torch.optim.Optimizer:
    """The optimiser over `groups`, at rate 0 until the loop sets one; momentum is the recipe's."""
    momentum = settings.momentum
    match name:
        case "sgd":
            return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0, foreach=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, lr=0.0, momentum=momentum)
        case "adam":
            return torch.optim.Adam(groups, lr=0.0, betas=(momentum, 0.999))
        case "adamw":
            return torch.optim.AdamW(groups, lr=0.0, betas=(momentum, 0.999))
