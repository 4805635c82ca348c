"""The one training loop of all passes: seeds, schedule, checkpoints and progress around a pass's own loss.

Data order, views and dropout derive from (seed, index of the pass, epoch), and each epoch ends in a checkpoint, so
a run that is killed and started again computes the same bits as one that was not.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qkd.base.progress import Advance
from qkd.errors import RecipeError
from qkd.student.finite import not_finite
from qkd.student.levels import WeightLevels
from qkd.train import parallel
from qkd.train.accelerator import CPU, precision, training_device
from qkd.train.augment import Views
from qkd.train.checkpoint import CHECKPOINT, OF_ANOTHER_RECIPE, load_weights, read_tensors, write_tensors
from qkd.train.compiling import compiled
from qkd.train.dampening import dampen, dampening_strength
from qkd.train.evaluation import top1
from qkd.train.history import HistoryPoint, PassFact
from qkd.train.job import Job
from qkd.train.journal import Journal
from qkd.train.optimisation import make_optimiser, one_cycle, parameter_groups
from qkd.train.state import Role, TrainState
from qkd.train.teacher_logits import TeacherLogits, kept_logits

DIVERGED = 1e4
"""A mean loss beyond this has left every useful region; cross-entropy over a million classes starts at 14."""


def fit(job: Job, state: TrainState) -> TrainState:
    """Run a job from its last checkpoint, or from the start, and return the next state."""
    run = _Run(job, state)
    run.resume()
    bar = state.session.reporter.task(job.name, job.epochs * run.batches)
    with bar as advance, parallel.shared_statistics(run.networks):
        advance(run.epoch * run.batches)
        while run.epoch < job.epochs and run.stopped is None:
            run.train_epoch(advance)
    run.finish()
    trained = {role: learner.network for role, learner in job.learners.items()}
    return state.after(run.fact(), trained, tuple(run.history))


class _Run:
    """A job in progress: what a checkpoint holds."""

    def __init__(self, job: Job, state: TrainState) -> None:
        self.job, self.state = job, state
        settings = state.settings
        self.batch_size = min(settings.batch_size, len(state.data.train))
        self.batches = len(state.data.train) // self.batch_size
        self.device = training_device(settings)
        self.views = Views(state.data, self.device)
        self.labels = torch.from_numpy(state.data.train.labels)
        self.networks = [learner.network.to(self.device) for learner in job.learners.values()]
        modules = (module for network in self.networks for module in network.modules())
        self.learned_levels = [m for m in modules if isinstance(m, WeightLevels) and m.spec.learned]
        groups = parameter_groups(job.learners, settings.weight_decay)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimiser = make_optimiser(job.optimiser, groups, settings)
        torch.compiler.reset()  # each pass has its own networks; graphs of the last one would count against the limit
        self.part = parallel.my_part(self.batch_size)
        self.loss = compiled(job, state)
        self.teacher = _responses(job.teacher, state, self.views, self.batch_size)
        self.journal: Journal | None = None
        self.epoch = 0
        self.seconds = 0.0
        self.history: list[HistoryPoint] = []
        self.best: dict[Role, _Snapshot] = {}
        self.stopped: str | None = None
        """Why the job ended before its last epoch."""

    def train_epoch(self, advance: Advance) -> None:
        """Once over the training images, then validation where it is due, and a checkpoint."""
        started = time.perf_counter()
        if self.job.before_epoch is not None:
            self.job.before_epoch(self.epoch)
        if self.epoch == 0:
            self._remember_best(self._validate(self.job.keep_best))
        with torch.random.fork_rng(devices=[] if self.device == CPU else [self.device]):
            torch.manual_seed(self.state.seed("dropout", self.epoch))
            loss = self._steps(advance)
        scores = self._validate(self._watched())
        self._remember_best(scores)
        self.history.append(self._point(loss, scores))
        self.epoch += 1
        self.stopped = self._fallen(scores)
        self.seconds += time.perf_counter() - started
        self._save()

    def finish(self) -> None:
        """Put every network of `keep_best` back to where it validated best, all into main memory; close the curves."""
        for role, snapshot in self.best.items():
            self.job.learners[role].network.load_state_dict(snapshot.weights)
        for network in self.networks:
            network.to(CPU)
        if self.journal is not None:
            self.journal.close()

    def fact(self) -> PassFact:
        """What the pass cost and reached."""
        top1s = [point.validation_top1 for point in self.history]
        return PassFact(
            name=self.job.name, epochs=self.epoch, seconds=self.seconds,
            validation_top1=top1s[-1] if top1s else None, note=self.stopped,
        )  # fmt: skip

    def _steps(self, advance: Advance) -> float:
        generator = torch.Generator().manual_seed(self.state.seed("batches", self.epoch))
        order = torch.randperm(len(self.labels), generator=generator)
        total = 0.0
        for learner in self.job.learners.values():
            learner.network.train(learner.batch_statistics)
        if self.teacher is not None:
            self.teacher.begin(self.epoch)
        for number, start in enumerate(range(0, self.batches * self.batch_size, self.batch_size)):
            self._set_rates(self._progress(number))
            loss = parallel.average(self._step(order[start : start + self.batch_size], number, generator))
            if not math.isfinite(loss) or loss > DIVERGED:
                raise self._diverged(number, f"the loss is {loss:g}")
            total += loss
            advance(1, f"loss {loss:.3f}")
        broken = next(filter(None, (not_finite(network.state_dict()) for network in self.networks)), None)
        if broken:
            raise self._diverged(self.batches - 1, f"{broken} holds NaN or infinity after it")  # before it is kept
        if self.teacher is not None:
            self.teacher.end(self.epoch)
        return total / self.batches

    def _step(self, index_N: Tensor, number: int, generator: torch.Generator) -> float:
        images = self.views.batch(index_N, generator, self.part)
        labels = self.labels[index_N[self.part]].to(self.device)
        self.optimiser.zero_grad(set_to_none=True)
        with precision(self.state.settings, self.device):
            loss = self.loss(images, labels, *self._answers(images, number, index_N))
        loss.backward()  # type: ignore[no-untyped-call]
        parallel.average_gradients(self.parameters)
        dampen(self.networks, dampening_strength(self._progress(number), self.state.settings.quantizer.dampening))
        if self.job.gradients is not None:
            self.job.gradients(generator)
        self.optimiser.step()
        for levels in self.learned_levels:
            levels.sort()
        return float(loss.detach())

    def _answers(self, images: Tensor, number: int, index_N: Tensor) -> tuple[Tensor, ...]:
        """The teacher's logits, where the job has one."""
        if self.teacher is None:
            return ()
        return (self.teacher.batch(images, self._position(number), index_N[self.part]),)

    def _progress(self, number: int) -> float:
        """Share of the pass that lies behind the middle of a step."""
        return (self.epoch + (number + 0.5) / self.batches) / self.job.epochs

    def _position(self, number: int) -> slice:
        """Where a batch of this rank's lies in the epoch's order."""
        share = self.part.stop - self.part.start
        return slice(number * share, (number + 1) * share)

    def _set_rates(self, progress: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * one_cycle(progress, self.job.warmup)

    def _validate(self, roles: tuple[Role, ...]) -> dict[Role, float]:
        with precision(self.state.settings, self.device):
            return {role: top1(self.job.learners[role].network, self.state.data.validation) for role in roles}

    def _watched(self) -> tuple[Role, ...]:
        """Whom to validate after this epoch."""
        done = self.epoch + 1
        due = done == self.job.epochs or done % self.state.settings.validate_every == 0
        return tuple(self.job.learners) if due else self.job.keep_best

    def _remember_best(self, scores: Mapping[Role, float]) -> None:
        for role in self.job.keep_best:
            if role not in self.best or scores[role] > self.best[role].top1:
                weights = self.job.learners[role].network.state_dict()
                self.best[role] = _Snapshot(scores[role], {name: t.clone() for name, t in weights.items()})

    def _fallen(self, scores: Mapping[Role, float]) -> str | None:
        for role in self.job.keep_best:
            if self.best[role].top1 - scores[role] > self.job.largest_fall and self.epoch < self.job.epochs:
                return (
                    f"stopped after epoch {self.epoch} of {self.job.epochs}: the {role} validated at "
                    f"{scores[role]:.2f} %, more than {self.job.largest_fall:g} points below its best, "
                    f"{self.best[role].top1:.2f} %"
                )
        return None

    def _point(self, loss: float, scores: Mapping[Role, float]) -> HistoryPoint:
        rates = [group["lr"] for group in self.optimiser.param_groups]
        return HistoryPoint(
            pass_name=self.job.name, epoch=self.epoch, loss=loss, learning_rate=rates[0],
            validation_top1=scores.get("quantized", scores.get("student")), teacher_top1=scores.get("teacher"),
        )  # fmt: skip

    def _diverged(self, number: int, how: str) -> RecipeError:
        folder = self.state.checkpoint_folder()
        kept = ""
        if folder is not None:
            last = f"the last finite checkpoint is {folder / CHECKPOINT}"
            kept = f"; {last}" if self.epoch else f"; the passes before it are kept in {folder.parent}"
        rates = ", ".join(f"{role} {learner.learning_rate:g}" for role, learner in self.job.learners.items())
        return RecipeError(
            f"pass {self.job.name!r} diverged in step {number + 1} of epoch {self.epoch + 1}: {how}. "
            f"Use a lower learning rate (now {rates}), or a smaller weight or temperature of the loss{kept}"
        )

    def resume(self) -> None:
        """Go on from the pass's checkpoint, if it has one."""
        folder = self.state.checkpoint_folder()
        content = read_tensors(folder / CHECKPOINT) if folder else None
        if content is None:
            return
        for role, learner in self.job.learners.items():
            load_weights(learner.network, content["networks"][role], f"{folder} ({role})", OF_ANOTHER_RECIPE)
        if content.get("world_size", 1) != parallel.world_size():
            raise RecipeError(
                f"{folder} was begun by {content.get('world_size', 1)} processes and cannot go on with "
                f"{parallel.world_size()}: batches would be shared otherwise. Start as many, or delete the folder"
            )
        self.optimiser.load_state_dict(content["optimiser"])
        if self.job.gradients is not None:
            self.job.gradients.load_state_dict(content["gradients"])
        self.epoch, self.seconds = content["epoch"], content["seconds"]
        self.history = [HistoryPoint(**point) for point in content["history"]]
        self.best = {role: _Snapshot(top, weights) for role, (top, weights) in content["best"].items()}
        self.stopped = content.get("stopped")

    def _save(self) -> None:
        folder = self.state.checkpoint_folder()
        if folder is None or parallel.rank() > 0:
            return
        if self.journal is None:
            self.journal = Journal(folder, self.history[-1].epoch)
        self.journal.record(self.history)
        content = {
            "networks": {role: learner.network.state_dict() for role, learner in self.job.learners.items()},
            "optimiser": self.optimiser.state_dict(),
            "gradients": None if self.job.gradients is None else self.job.gradients.state_dict(),
            "world_size": parallel.world_size(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "history": [point.model_dump() for point in self.history],
            "best": {role: (snapshot.top1, snapshot.weights) for role, snapshot in self.best.items()},
        }
        write_tensors(folder / CHECKPOINT, content)


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """A network as it was after some epoch, and how it validated."""

    top1: float
    weights: dict[str, Tensor]


def _responses(teacher: nn.Module | None, state: TrainState, views: Views, batch_size: int) -> TeacherLogits | None:
    if teacher is None:
        return None
    logits = kept_logits(state, teacher, views, batch_size, teacher.eval())
    teacher.to(training_device(state.settings))  # only now: the key of kept logits is made in main memory
    return logits
