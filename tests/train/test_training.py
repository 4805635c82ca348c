"""The training loop: schedule, parameter groups, determinism, resuming, divergence, batch norm statistics."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from torch import nn

from qkd.data.pixels import image_batch
from qkd.errors import RecipeError, ToolError
from qkd.passes.train.apprentice import Apprentice
from qkd.passes.train.co_study import CoStudy
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.self_study import SelfStudy
from qkd.student.freeze import freeze
from qkd.train.checkpoint import CHECKPOINT
from qkd.train.evaluation import evaluate
from qkd.train.history import HistoryPoint
from qkd.train.norm_statistics import re_estimate
from qkd.train.optimisation import Learner, one_cycle, parameter_groups
from qkd.train.state import Session, TrainState
from qkd.train.training import _Run
from tests.support.interrupts import Interrupts
from tests.support.networks import same_weights, small_student, tiny_network, tiny_state

TEACHER, STUDENT = Pretrain("teacher", epochs=2), Pretrain("student", epochs=3)


def quantized_state(**settings: int | float) -> TrainState:
    return Quantize(calibration_images=32, norm_batches=2)(STUDENT(TEACHER(tiny_state(**settings))))


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    assert [one_cycle(p, 0.2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert one_cycle(0.0, 0.0) == 1


def test_every_parameter_is_in_one_group_and_steps_have_their_own_rate() -> None:
    student = small_student()
    groups = parameter_groups({"quantized": Learner(student, 0.1, 0.05)}, weight_decay=1e-3)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in student.parameters())
    weights, plain, steps = groups
    assert (weights["peak"], weights["weight_decay"]) == (0.1, 1e-3)
    assert (plain["peak"], plain["weight_decay"]) == (0.1, 0.0)
    assert (steps["peak"], steps["weight_decay"]) == (pytest.approx(0.005), 0.0)
    assert len(steps["params"]) == len(student.steps())


def test_a_frozen_parameter_is_in_no_group() -> None:
    network = tiny_network()
    frozen = network[0].weight.requires_grad_(False)  # type: ignore[index,union-attr,operator]
    groups = parameter_groups({"teacher": Learner(network, 0.1)}, 0.0)
    assert all(p is not frozen for group in groups for p in group["params"])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, other = (STUDENT(tiny_state(seed)) for seed in (1, 1, 2))
    assert same_weights(first.student, second.student)
    assert first.history == second.history
    assert not same_weights(first.student, other.student)


def test_the_global_generator_does_not_matter_and_is_left_alone() -> None:
    def with_dropout() -> TrainState:
        state = tiny_state()
        return replace(state, student=nn.Sequential(nn.Dropout2d(0.5), state.student))

    torch.manual_seed(1)
    first = STUDENT(with_dropout())
    torch.manual_seed(2)
    second = STUDENT(with_dropout())
    torch.manual_seed(0)  # as tiny_state sets it
    tiny_network(8), tiny_network()
    expected = torch.rand(1)
    with_dropout()
    assert torch.equal(torch.rand(1), expected)
    assert same_weights(first.student, second.student)


def test_validating_more_rarely_changes_no_weight_and_the_last_epoch_is_validated() -> None:
    often, rarely = (Pretrain("student", epochs=3)(tiny_state(validate_every=every)) for every in (1, 2))
    assert same_weights(often.student, rarely.student)
    assert [p.validation_top1 for p in rarely.history] == [None, *(p.validation_top1 for p in often.history[1:])]
    assert rarely.passes[-1].validation_top1 == often.passes[-1].validation_top1


def test_a_pass_that_keeps_its_best_validates_every_epoch() -> None:
    often, rarely = (CoStudy(epochs=3)(quantized_state(validate_every=every)) for every in (1, 3))
    assert [p.teacher_top1 for p in rarely.history[-3:]] == [p.teacher_top1 for p in often.history[-3:]]
    assert [p.validation_top1 is None for p in rarely.history[-3:]] == [True, True, False]
    assert same_weights(often.teacher, rarely.teacher)


def test_training_helps() -> None:
    history = Pretrain("student", epochs=8)(tiny_state()).history
    assert history[-1].loss < 0.7 * history[0].loss
    assert history[-1].validation_top1 is not None
    assert history[-1].validation_top1 > 80


@pytest.mark.parametrize("steps", [1, 3, 4, 7, 9])
def test_an_interrupted_pass_goes_on_to_the_same_weights(tmp_path: Path, steps: int) -> None:
    whole = CoStudy(epochs=3)(quantized_state())
    state = quantized_state()
    folders = tuple(tmp_path / str(i) for i in range(4))
    with pytest.raises(KeyboardInterrupt):
        CoStudy(epochs=3)(replace(state, session=Session(folders, Interrupts(steps))))
    resumed = CoStudy(epochs=3)(replace(state, session=Session(folders)))
    assert same_weights(resumed.quantized, whole.quantized)
    assert same_weights(resumed.teacher, whole.teacher)
    assert resumed.history == whole.history


def test_a_checkpoint_of_another_architecture_names_the_tensor(tmp_path: Path) -> None:
    folders = (tmp_path,)
    state = replace(tiny_state(), session=Session(folders, Interrupts(4)))
    with pytest.raises(KeyboardInterrupt):
        STUDENT(state)
    assert (tmp_path / CHECKPOINT).exists()
    wider = replace(tiny_state(), student=tiny_network(6), session=Session(folders))
    with pytest.raises(
        RecipeError, match=r"another architecture: 0\.weight is \(4, 1, 3, 3\) there and \(6, 1, 3, 3\)"
    ):
        STUDENT(wider)


def test_a_damaged_checkpoint_says_what_to_delete(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(RecipeError, match="delete its folder"):
        STUDENT(replace(tiny_state(), session=Session((tmp_path,))))


def test_one_flipped_bit_is_seen(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        STUDENT(replace(tiny_state(), session=Session((tmp_path,), Interrupts(4))))
    content = bytearray((tmp_path / CHECKPOINT).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(RecipeError, match="is damaged"):
        STUDENT(replace(tiny_state(), session=Session((tmp_path,))))


def test_a_network_without_anything_to_train_is_refused() -> None:
    with pytest.raises(RecipeError, match="the student has no parameter to train"):
        STUDENT(replace(tiny_state(), student=tiny_network().requires_grad_(False)))


def test_a_full_disk_stops_with_an_error_and_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = replace(tiny_state(), session=Session((tmp_path,), Interrupts(4)))
    with pytest.raises(KeyboardInterrupt):
        STUDENT(state)
    before = (tmp_path / CHECKPOINT).read_bytes()

    written, write_bytes = [], Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        """History finds room; half a checkpoint does not."""
        written.append(path.name)
        if CHECKPOINT not in path.name:
            return write_bytes(path, content)
        write_bytes(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ToolError, match="disk is full"):
        STUDENT(replace(tiny_state(), session=Session((tmp_path,))))
    assert len(written) > 1
    assert CHECKPOINT in written[-1]
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = replace(tiny_state(), session=Session((tmp_path / "01_pretrain",)))
    ruin = Pretrain("student", epochs=3, learning_rate=1e30)
    with pytest.raises(RecipeError, match=f"the passes before it are kept in {tmp_path}$"):
        ruin(state)
    with pytest.raises(KeyboardInterrupt):
        STUDENT(replace(state, session=Session((tmp_path / "01_pretrain",), Interrupts(4))))
    monkeypatch.setattr(_Run, "_set_rates", lambda run, _: [g.update(lr=1e30) for g in run.optimiser.param_groups])
    with pytest.raises(RecipeError, match=f"the last finite checkpoint is {tmp_path / '01_pretrain' / CHECKPOINT}$"):
        STUDENT(state)


def test_divergence_stops_with_the_step_the_pass_and_the_rate() -> None:
    with pytest.raises(RecipeError, match=r"'pretrain student' diverged in step \d+ of epoch \d.*student 1e\+30"):
        Pretrain("student", epochs=3, learning_rate=1e30)(tiny_state())


def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(optimiser: torch.optim.Optimizer) -> None:
        optimiser.param_groups[0]["params"][0].data.fill_(torch.nan)

    state = replace(tiny_state(), session=Session((tmp_path,)))
    monkeypatch.setattr(torch.optim.SGD, "step", ruined)
    with pytest.raises(RecipeError, match=r"diverged in step 1 of epoch 1: 0\.weight holds NaN or infinity after it"):
        Pretrain("student", epochs=3)(replace(state, settings=state.settings.model_copy(update={"batch_size": 5000})))
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_batch_larger_than_the_data_is_one_batch() -> None:
    assert len(STUDENT(tiny_state(batch_size=5000)).history) == 3


def test_exact_mode_and_the_integer_graph_choose_the_same_classes() -> None:
    state = SelfStudy(epochs=2)(quantized_state())
    quantized = state.student_to_train()
    scores = evaluate(state.student, quantized, freeze(quantized, "tiny"), state.data.test)
    assert scores.agreement_exact == 100
    assert scores.top1_exact == scores.top1_integer
    assert scores.agreement > 90


def test_re_estimated_statistics_are_those_of_the_data_and_forget_the_old_ones() -> None:
    state, network = tiny_state(), tiny_network()
    norm = network[1]  # type: ignore[index]
    norm.running_mean.fill_(100)  # type: ignore[union-attr,operator]
    with torch.no_grad():
        outputs = network[0](image_batch(state.data.train.images))  # type: ignore[index,operator]
    re_estimate(network.eval(), state.data.train, batches=3, batch_size=32)
    torch.testing.assert_close(norm.running_mean, outputs.mean((0, 2, 3)))
    assert norm.momentum == 0.1
    assert not network.training
    assert not norm.training


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile uses parts of torch that are
def test_compiled_training_learns_what_eager_training_learns() -> None:
    with patch("torch.compile", wraps=torch.compile) as compiling:
        eager, compiled = (Apprentice("B", 1)(TEACHER(tiny_state(compile=value))) for value in (False, True))
    assert compiling.call_count == 1
    assert compiled.history[-1].loss == pytest.approx(eager.history[-1].loss, rel=1e-4)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = replace(tiny_state(), session=Session((tmp_path,)))
    STUDENT(state)
    monkeypatch.setattr("qkd.train.checkpoint.__version__", "99.0")
    with pytest.raises(RecipeError, match=r"another version of qkd than this 99\.0"):
        STUDENT(state)


def test_curves_are_kept_as_lines_and_as_events(tmp_path: Path) -> None:
    trained = STUDENT(replace(tiny_state(), session=Session((tmp_path,))))
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [HistoryPoint.model_validate_json(line) for line in lines] == list(trained.history)
    assert len(list((tmp_path / "events").glob("events.out.tfevents.*"))) == 1
