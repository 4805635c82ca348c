"""Whole training runs: formats share what they can, finished passes are never repeated, kills change nothing."""

import multiprocessing
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from qkd.base.progress import Advance, Silent
from qkd.bits import Bits
from qkd.errors import RecipeError, UnsupportedOpError
from qkd.passes import build_train_passes
from qkd.recipe import QuantizerSpec, TrainSpec, parse_recipe
from qkd.student.freeze import freeze
from qkd.student.ternary import AsymmetricTernary
from qkd.train.digests import network_sha256
from qkd.train.state import TrainState
from qkd.train.training_run import shared_settings, train, untrained_student
from tests.support.networks import tiny_network

TABLE: dict[str, Any] = {
    "name": "small",
    "data": {"name": "digits", "validation": 300, "crop_padding": 1},
    "teacher": {"model": "digits_teacher", "options": {"width": 8}},
    "student": {"model": "digits_student", "options": {"width": 8}},
    "bits": ["W4A8", "ternary-A4"],
    "devices": ["host"],
    "train": {"batch_size": 64, "threads": 1},
    "passes": [
        {"name": "pretrain", "network": "teacher", "epochs": 2},
        {"name": "pretrain", "network": "student", "epochs": 2},
        {"name": "quantize", "calibration_images": 64, "norm_batches": 4},
        {"name": "self_study", "epochs": 1},
        {"name": "co_study", "epochs": 2},
        {"name": "tutoring", "epochs": 1},
        {"name": "re_estimate_batch_norm", "batches": 4},
    ],
}


class Titles(Silent):
    """Notes which bars were opened."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        self.titles.append(title.split()[0])
        with super().task(title, total) as advance:
            yield advance


def run(table: dict[str, Any], folder: Path, bits: str = "W4A8", reporter: Silent | None = None) -> TrainState:
    recipe = parse_recipe(table, "test")
    return train(recipe, build_train_passes(recipe.passes), Bits.parse(bits), folder, reporter or Silent())


def graph_hash(state: TrainState) -> str:
    return freeze(state.student_to_train(), "net").sha256()


def changed(**passes: dict[str, Any]) -> dict[str, Any]:
    """The recipe with other options in some passes."""
    return TABLE | {"passes": [step | passes.get(step["name"], {}) for step in TABLE["passes"]]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    """A run that nobody interrupted."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("run")
    state = run(TABLE, folder)
    torch.set_num_threads(threads)
    return folder, state


def test_a_finished_run_trains_nothing_again(finished: tuple[Path, TrainState]) -> None:
    folder, state = finished
    reporter = Titles()
    again = run(TABLE, folder, reporter=reporter)
    assert reporter.titles == []
    assert graph_hash(again) == graph_hash(state)
    assert again.history == state.history
    assert network_sha256(again.teacher) == network_sha256(state.teacher)


def test_another_format_shares_the_float_passes(finished: tuple[Path, TrainState]) -> None:
    reporter = Titles()
    other = run(TABLE, finished[0], "ternary-A4", reporter)
    assert reporter.titles == ["self_study", "co_study", "tutoring"]
    assert network_sha256(other.student) == network_sha256(finished[1].student)
    assert graph_hash(other) != graph_hash(finished[1])


def test_a_changed_option_repeats_only_what_follows(finished: tuple[Path, TrainState]) -> None:
    reporter = Titles()
    run(changed(tutoring={"temperature": 3.0}), finished[0], reporter=reporter)
    assert reporter.titles == ["tutoring"]


def test_quantizer_options_repeat_only_what_is_quantized_and_are_read_back(finished: tuple[Path, TrainState]) -> None:
    reporter = Titles()
    options = {"quantizer": {"ternary_thresholds": "asymmetric", "dampening": 0.1}}
    table = TABLE | {"train": TABLE["train"] | options}
    state = run(table, finished[0], "ternary-A4", reporter)
    assert reporter.titles == ["self_study", "co_study", "tutoring"]
    again = run(table, finished[0], "ternary-A4", reporter)
    assert len(reporter.titles) == 3
    assert isinstance(again.student_to_train().inner()[0].weight_step, AsymmetricTernary)
    assert graph_hash(again) == graph_hash(state)


def test_how_often_is_validated_is_in_no_key() -> None:
    assert shared_settings(TrainSpec(validate_every=4)) == shared_settings(TrainSpec())


def test_plain_quantizer_options_are_in_no_key() -> None:
    shared, rounding = shared_settings(TrainSpec())
    assert "quantizer" not in shared
    assert rounding == ()
    assert shared_settings(TrainSpec(quantizer=QuantizerSpec(dampening=0.5)))[1] == ({"dampening": 0.5},)


@pytest.mark.parametrize(
    "change", [{"train": {"batch_size": 32}}, {"teacher": {"model": "digits_teacher"}}], ids=["settings", "teacher"]
)
def test_what_every_pass_depends_on_repeats_every_pass(
    finished: tuple[Path, TrainState], change: dict[str, Any]
) -> None:
    class Stop(Titles):
        @contextmanager
        def task(self, title: str, total: int) -> Iterator[Advance]:
            raise KeyboardInterrupt(title)
            yield

    with pytest.raises(KeyboardInterrupt, match="pretrain"):
        run(TABLE | change, finished[0], reporter=Stop())


def test_the_history_tells_each_epoch_and_each_pass(finished: tuple[Path, TrainState]) -> None:
    state = finished[1]
    assert [fact.name.split()[0] for fact in state.passes] == [step["name"] for step in TABLE["passes"]]
    assert [point.epoch for point in state.history] == [0, 1, 0, 1, 0, 0, 1, 0]
    assert state.history[0].teacher_top1 is not None
    assert state.history[0].validation_top1 is None
    assert all(point.validation_top1 is not None for point in state.history[2:])


def test_a_run_that_is_killed_several_times_ends_in_the_same_bits(
    finished: tuple[Path, TrainState], tmp_path: Path
) -> None:
    rng = random.Random(7)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [__name__, "sklearn.datasets"]
    )  # imports once; every child starts within milliseconds
    kills = 0
    while kills < 4:
        before = progress(tmp_path)
        process = context.Process(target=run, args=(TABLE, tmp_path))
        process.start()
        while process.is_alive() and progress(tmp_path) == before:
            time.sleep(0.002)  # let each life get somewhere
        time.sleep(rng.uniform(0, 0.3))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
    assert kills >= 2
    state = run(TABLE, tmp_path)
    assert graph_hash(state) == graph_hash(finished[1])
    assert network_sha256(state.teacher) == network_sha256(finished[1].teacher)
    assert state.history == finished[1].history


def progress(folder: Path) -> list[tuple[str, int]]:
    """Names and times of all files of a run."""
    found = []
    for path in folder.rglob("*"):
        try:
            found.append((path.name, path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue  # moved into place just now
    return sorted(found)


class Leaky(torch.nn.Module):
    """Its slope is in no tensor and in no repr."""

    def __init__(self, negative_slope: float) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.leaky_relu(x, self.negative_slope)


def leaky_teacher(classes: int, input_shape: tuple[int, int, int], negative_slope: float) -> torch.nn.Module:
    """A teacher whose options change no tensor."""
    height, width, channels = input_shape
    return torch.nn.Sequential(
        Leaky(negative_slope), torch.nn.Flatten(), torch.nn.Linear(channels * height * width, classes)
    )


def gelu_network(classes: int, input_shape: tuple[int, int, int]) -> torch.nn.Module:
    """A student that has no integer form."""
    height, width, channels = input_shape
    head = torch.nn.Linear(4 * height * width, classes)
    return torch.nn.Sequential(torch.nn.Conv2d(channels, 4, 3, padding=1), torch.nn.GELU(), torch.nn.Flatten(), head)


def test_a_student_that_cannot_be_quantized_is_refused_before_the_first_epoch(tmp_path: Path) -> None:
    class Stop(Silent):
        @contextmanager
        def task(self, title: str, total: int) -> Iterator[Advance]:
            raise AssertionError("an epoch has begun")
            yield

    with pytest.raises(UnsupportedOpError, match="has no integer form"):
        run(TABLE | {"student": {"model": "tests.train.test_training_run:gelu_network"}}, tmp_path, reporter=Stop())


def normed(classes: int, input_shape: tuple[int, int, int]) -> torch.nn.Module:
    """Its batch norm sees one value a channel and image."""
    pixels = input_shape[0] * input_shape[1] * input_shape[2]
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, classes), torch.nn.BatchNorm1d(classes))


def test_batches_of_one_image_are_refused_where_a_batch_norm_needs_more(tmp_path: Path) -> None:
    table = TABLE | {"teacher": {"model": "tests.train.test_training_run:normed"}}
    with pytest.raises(RecipeError, match="one image, and Sequential does not train on that"):
        run(table | {"train": table["train"] | {"batch_size": 1}}, tmp_path)


def test_a_wrong_order_is_refused_before_the_data_is_loaded(tmp_path: Path) -> None:
    table = TABLE | {"passes": TABLE["passes"][2:], "data": {"name": "cifar10", "path": "/nowhere", "validation": 1}}
    with pytest.raises(RecipeError, match="'quantize' cannot run there"):
        run(table, tmp_path)


def test_an_untrained_student_has_the_shapes_of_the_trained_one(finished: tuple[Path, TrainState]) -> None:
    recipe = parse_recipe(TABLE, "test")
    fresh = freeze(untrained_student(recipe, 10, (8, 8, 1), Bits.parse("W4A8")), "net")
    trained = freeze(finished[1].student_to_train(), "net")
    assert {n: v.shape for n, v in fresh.values.items()} == {n: v.shape for n, v in trained.values.items()}


def test_options_that_change_no_tensor_train_everything_again(tmp_path: Path) -> None:
    table = TABLE | {"passes": TABLE["passes"][:3]}
    reporter = Titles()
    for negative_slope in (0.1, 0.1, 0.2):
        teacher = {
            "model": "tests.train.test_training_run:leaky_teacher",
            "options": {"negative_slope": negative_slope},
        }
        run(table | {"teacher": teacher}, tmp_path, reporter=reporter)
    assert reporter.titles == ["pretrain"] * 4


def test_the_hash_of_a_network_sees_values_and_class() -> None:
    torch.manual_seed(0)
    network = tiny_network()
    before = network_sha256(network)
    assert network_sha256(torch.nn.ModuleList(network)) != before
    with torch.no_grad():
        next(network.parameters())[0, 0, 0, 0] += 1
    assert network_sha256(network) != before
