"""The one training loop of all passes: seeds, schedule, checkpoints and progress around a pass's own loss.

Data order, views and dropout derive from (seed, index of the pass, epoch), and each epoch ends in a checkpoint, so
a run that is killed and started again computes the same bits as one that was not.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qkd.augment import Views
from qkd.checkpoint import CHECKPOINT, load_weights, read_tensors, write_tensors
from qkd.errors import RecipeError
from qkd.evaluation import top1
from qkd.progress import Advance
from qkd.quantizer import LearnedStep
from qkd.recipe import TrainSpec
from qkd.results import HistoryPoint, PassFact
from qkd.state import Role, TrainState

DIVERGED = 1e4
"""A mean loss beyond this has left every useful region; cross-entropy over a million classes starts at 14."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Learner:
    """A network that a pass trains: `network` is the pass's own copy, `step_rate` multiplies the rate of its steps."""

    network: nn.Module
    learning_rate: float
    step_rate: float = 1.0


@dataclass(frozen=True, eq=False)
class Job:
    """What a pass asks of the loop.

    `loss` maps (images, labels) to a scalar whose gradients reach the learners. The networks named in `keep_best` end
    as they were after their best-validating epoch, the state before the first one included.
    """

    name: str
    epochs: int
    learners: Mapping[Role, Learner]
    loss: Loss
    warmup: float = 0.1
    keep_best: tuple[Role, ...] = ()


def fit(job: Job, state: TrainState) -> TrainState:
    """Run a job from its last checkpoint, or from the start, and return the next state."""
    run = _Run(job, state)
    run.resume()
    title = f"{job.name} ({', '.join(job.learners)})"
    with state.session.reporter.task(title, job.epochs * run.batches) as advance:
        advance(run.epoch * run.batches)
        while run.epoch < job.epochs:
            run.train_epoch(advance)
    run.restore_best()
    networks = {role: learner.network for role, learner in job.learners.items()}
    return state.after(run.fact(), networks, tuple(run.history))


def one_cycle(progress: float, warmup: float) -> float:
    """The learning rate's factor at `progress` in [0, 1]: a linear rise over `warmup`, then a cosine to 0.

    After the one-cycle policy of Smith and Topin (arXiv 1708.07120), with the rate rising from 0.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def parameter_groups(learners: Mapping[Role, Learner], weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay; norms and biases without; learned steps without and at their own rate."""
    groups = []
    for learner in learners.values():
        modules = learner.network.modules()
        steps = {id(p) for m in modules if isinstance(m, LearnedStep) for p in m.parameters()}
        trained = [p for p in learner.network.parameters() if p.requires_grad]
        others = [p for p in trained if id(p) not in steps]
        rate = learner.learning_rate
        groups += [
            {"params": [p for p in others if p.dim() > 1], "peak": rate, "weight_decay": weight_decay},
            {"params": [p for p in others if p.dim() <= 1], "peak": rate, "weight_decay": 0.0},
            {"params": [p for p in trained if id(p) in steps], "peak": rate * learner.step_rate, "weight_decay": 0.0},
        ]
    return [group for group in groups if group["params"]]


class _Run:
    """A job in progress: what a checkpoint holds."""

    def __init__(self, job: Job, state: TrainState) -> None:
        self.job, self.state = job, state
        settings = state.settings
        self.batch_size = min(settings.batch_size, len(state.data.train))
        self.batches = len(state.data.train) // self.batch_size
        self.views = Views(state.data)
        self.labels = torch.from_numpy(state.data.train.labels)
        groups = parameter_groups(job.learners, settings.weight_decay)
        self.optimiser = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.momentum > 0)
        self.loss = _compiled(job.loss, state)
        self.epoch = 0
        self.seconds = 0.0
        self.history: list[HistoryPoint] = []
        self.best: dict[Role, _Snapshot] = {}

    def train_epoch(self, advance: Advance) -> None:
        """Once over the training images, then validation and a checkpoint."""
        started = time.perf_counter()
        if self.epoch == 0:
            self._remember_best(self._validate(self.job.keep_best))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.state.seed("dropout", self.epoch))
            loss = self._steps(advance)
        scores = self._validate(tuple(self.job.learners))
        self._remember_best(scores)
        self.history.append(self._point(loss, scores))
        self.epoch += 1
        self.seconds += time.perf_counter() - started
        self._save()

    def restore_best(self) -> None:
        """Put every network of `keep_best` back to where it validated best."""
        for role, snapshot in self.best.items():
            self.job.learners[role].network.load_state_dict(snapshot.weights)

    def fact(self) -> PassFact:
        """What the pass cost and reached."""
        top1s = [point.validation_top1 for point in self.history]
        return PassFact(
            name=self.job.name, epochs=self.epoch, seconds=self.seconds, validation_top1=top1s[-1] if top1s else None
        )

    def _steps(self, advance: Advance) -> float:
        generator = torch.Generator().manual_seed(self.state.seed("batches", self.epoch))
        order = torch.randperm(len(self.labels), generator=generator)
        total = 0.0
        for learner in self.job.learners.values():
            learner.network.train()
        for number, start in enumerate(range(0, self.batches * self.batch_size, self.batch_size)):
            self._set_rates((self.epoch + (number + 0.5) / self.batches) / self.job.epochs)
            loss = self._step(order[start : start + self.batch_size], generator)
            if not math.isfinite(loss) or loss > DIVERGED:
                raise self._diverged(number, loss)
            total += loss
            advance(1, f"loss {loss:.3f}")
        return total / self.batches

    def _step(self, index_N: Tensor, generator: torch.Generator) -> float:
        images, labels = self.views.batch(index_N, generator), self.labels[index_N]
        self.optimiser.zero_grad(set_to_none=True)
        with _precision(self.state.settings):
            loss = self.loss(images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def _set_rates(self, progress: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * one_cycle(progress, self.job.warmup)

    def _validate(self, roles: tuple[Role, ...]) -> dict[Role, float]:
        return {role: top1(self.job.learners[role].network, self.state.data.validation) for role in roles}

    def _remember_best(self, scores: Mapping[Role, float]) -> None:
        for role in self.job.keep_best:
            if role not in self.best or scores[role] > self.best[role].top1:
                weights = self.job.learners[role].network.state_dict()
                self.best[role] = _Snapshot(scores[role], {name: t.clone() for name, t in weights.items()})

    def _point(self, loss: float, scores: Mapping[Role, float]) -> HistoryPoint:
        rates = [group["lr"] for group in self.optimiser.param_groups]
        return HistoryPoint(
            pass_name=self.job.name, epoch=self.epoch, loss=loss, learning_rate=rates[0],
            validation_top1=scores.get("quantized", scores.get("student")), teacher_top1=scores.get("teacher"),
        )  # fmt: skip

    def _diverged(self, number: int, loss: float) -> RecipeError:
        folder = self.state.checkpoint_folder()
        kept = f"; the last good checkpoint is {folder / CHECKPOINT}" if folder and self.epoch else ""
        rates = ", ".join(f"{role} {learner.learning_rate:g}" for role, learner in self.job.learners.items())
        return RecipeError(
            f"pass {self.job.name!r} diverged in step {number + 1} of epoch {self.epoch + 1}: the loss is {loss:g}. "
            f"Use a lower learning rate (now {rates}){kept}"
        )

    def resume(self) -> None:
        """Go on from the pass's checkpoint, if it has one."""
        folder = self.state.checkpoint_folder()
        content = read_tensors(folder / CHECKPOINT) if folder else None
        if content is None:
            return
        for role, learner in self.job.learners.items():
            load_weights(learner.network, content["networks"][role], f"{folder} ({role})")
        self.optimiser.load_state_dict(content["optimiser"])
        self.epoch, self.seconds = content["epoch"], content["seconds"]
        self.history = [HistoryPoint(**point) for point in content["history"]]
        self.best = {role: _Snapshot(top, weights) for role, (top, weights) in content["best"].items()}

    def _save(self) -> None:
        folder = self.state.checkpoint_folder()
        if folder is None:
            return
        content = {
            "networks": {role: learner.network.state_dict() for role, learner in self.job.learners.items()},
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "history": [point.model_dump() for point in self.history],
            "best": {role: (snapshot.top1, snapshot.weights) for role, snapshot in self.best.items()},
        }
        write_tensors(folder / CHECKPOINT, content)


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """A network as it was after some epoch, and how it validated."""

    top1: float
    weights: dict[str, Tensor]


def _compiled(loss: Loss, state: TrainState) -> Loss:
    if not state.settings.compile:
        return loss
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        state.session.reporter.say("train.compile needs a C++ compiler (g++); training goes on without, more slowly")
        return loss
    torch.compiler.reset()  # each pass has its own networks; graphs of the last one would count against the limit
    return torch.compile(loss, dynamic=False)


def _precision(settings: TrainSpec) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where the recipe asks for it and the processor multiplies it faster than float32."""
    able = any(has for name, has in torch.cpu.get_capabilities().items() if name in ("avx512_bf16", "amx_bf16"))
    return torch.autocast("cpu", torch.bfloat16) if settings.mixed_precision and able else nullcontext()
