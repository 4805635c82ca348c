"""Quantized distillation and learned points as passes: what they train, and that what they learn is what is frozen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.lowering import lowered
from qkd.bits import Bits
from qkd.errors import RecipeError
from qkd.passes.train.apprentice import Apprentice
from qkd.passes.train.pretrain import Pretrain
from qkd.passes.train.quantization_points import QuantizationPoints
from qkd.passes.train.quantize import Quantize
from qkd.passes.train.quantized_distillation import QuantizedDistillation
from qkd.passes.train.self_study import Qat
from qkd.passes.train.tutoring import Tutoring
from qkd.pipeline import Pass
from qkd.proof.verification import verify
from qkd.student.freeze import freeze
from qkd.student.levels import WeightLevels
from qkd.student.models import conv_block
from qkd.student.student import QuantStudent
from qkd.targets import target_names
from qkd.targets.kernels import choose_kernels
from qkd.targets.running.runners import open_runner
from qkd.train.checkpoint import load_result, save_result
from qkd.train.evaluation import evaluate
from qkd.train.state import TrainState, student_is_quantized
from tests.support.networks import same_weights, tiny_state
from tests.support.stub_library import device_or_skip


@pytest.fixture(scope="module")
def ready() -> TrainState:
    """Teacher and student trained, student quantized to 2 bits; one inner layer is a convolution, one depthwise."""
    torch.manual_seed(0)
    inner = [conv_block((4, 6), (6, 6)), conv_block((6, 6), (6, 6), depthwise=True)]
    student = nn.Sequential(conv_block((1, 4), (6, 6)), *inner, nn.Flatten(), nn.Linear(216, 3))
    state = replace(tiny_state(bits="W2A8", batch_size=48), student=student)
    state = Pretrain("student", 2)(Pretrain("teacher", 2)(state))
    return Quantize(calibration_images=32, norm_batches=2)(state)


def weights(student: QuantStudent) -> list[torch.Tensor]:
    return [layer.weight.detach() for layer in student.inner()]


def points(student: QuantStudent) -> list[torch.Tensor]:
    return [levels.points.detach() for _, levels in student.on_levels()]


def moved(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return any(float((a - b).abs().max()) > 1e-12 for a, b in zip(before, after, strict=True))


ALL: list[Pass[TrainState]] = [
    QuantizedDistillation(1),
    QuantizedDistillation(1, bucket="tensor", rounding="stochastic", averaging="elements"),
    QuantizedDistillation(1, bucket=16, gradient="exact"),
    QuantizationPoints(1),
    QuantizationPoints(1, train="points", bucket="tensor", initial="quantiles", teacher="student"),
    QuantizationPoints(2, train="alternate", allocate=True, store="int8"),
]


@pytest.mark.parametrize("step", ALL, ids=lambda step: repr(step)[:90])
def test_what_was_learned_is_what_is_frozen(ready: TrainState, step: Pass[TrainState]) -> None:
    after = step(ready)
    student = after.student_to_train()
    assert student_is_quantized(after) is None
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert "levels snapped to int8" in (after.passes[-1].note or "")
    graph = freeze(student, "levels")
    scores = evaluate(after.student, student, graph, after.data.test)
    assert scores.agreement_exact == 100
    for layer in student.inner():
        value = graph.values[f"{layer.name}.w"]
        codes = layer.weight_codes().transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(value.codes, codes)


def test_tables_keep_two_bits_a_weight_and_buckets_across_channels_eight(ready: TrainState) -> None:
    by_channel = freeze(QuantizedDistillation(1)(ready).student_to_train(), "a")
    across = freeze(QuantizedDistillation(1, bucket=16)(ready).student_to_train(), "b")
    inner = [f"{layer.name}.w" for layer in ready.student_to_train().inner()]
    assert [by_channel.values[name].packed_bits for name in inner] == [2, 2]
    assert [across.values[name].packed_bits for name in inner] == [8, 8]


def test_points_alone_leave_everything_else_alone(ready: TrainState) -> None:
    after = QuantizationPoints(1, train="points", initial="uniform")(ready).student_to_train()
    before = ready.student_to_train()
    names = [name for name, _ in before.named_parameters() if "weight_step" not in name]
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert all(torch.equal(old[name], new[name]) for name in names)
    even = torch.linspace(0, 1, 4)
    assert any(not torch.equal(p, even.expand_as(p)) for p in points(after))
    assert all(bool((p.diff(dim=1) >= 0).all()) for p in points(after))


@pytest.mark.parametrize(
    "step", [Qat(2, learning_rate=0.3), Tutoring(1), Apprentice("C", 1)], ids=lambda step: step.name
)
def test_points_stay_sorted_under_whatever_trains_next(ready: TrainState, step: Pass[TrainState]) -> None:
    finer = replace(ready, bits=Bits.parse("W8A8"))  # 256 points pass each other easily
    finer = Quantize(calibration_images=32, norm_batches=2)(finer)
    after = step(QuantizationPoints(1)(finer)).student_to_train()
    assert all(bool((p.diff(dim=1) >= 0).all()) for p in points(after))


def test_a_student_without_inner_layers_has_nothing_to_put_on_points() -> None:
    student = nn.Sequential(conv_block((1, 4), (6, 6)), nn.Flatten(), nn.Linear(144, 3))
    state = Pretrain("student", 1)(Pretrain("teacher", 1)(replace(tiny_state(), student=student)))
    with pytest.raises(RecipeError, match="no layer between its first and its last"):
        QuantizationPoints(1)(Quantize(calibration_images=32, norm_batches=2)(state))


def test_alternating_ends_on_the_weights(ready: TrainState) -> None:
    state = replace(ready, settings=ready.settings.model_copy(update={"momentum": 0.0}))
    start = QuantizationPoints(1, train="joint", learning_rate=1e-30)(state).student_to_train()
    one = QuantizationPoints(1, train="alternate")(state).student_to_train()
    two = QuantizationPoints(2, train="alternate")(state).student_to_train()
    assert not moved(points(start), points(one))
    assert moved(weights(start), weights(one))
    assert moved(points(start), points(two))
    assert moved(weights(start), weights(two))


def test_points_can_be_shared_out_by_gradient(ready: TrainState) -> None:
    student = QuantizationPoints(1, allocate=True)(ready).student_to_train()
    assert sum(p.shape[1] for p in points(student)) == 8
    assert student.levels is not None
    assert student.levels.counts == tuple(p.shape[1] for p in points(student))


def test_a_finished_pass_comes_back_with_its_levels(ready: TrainState, tmp_path: Path) -> None:
    after = QuantizationPoints(1, allocate=True)(ready)
    save_result(after, tmp_path)
    again = load_result(ready, tmp_path)
    assert again is not None
    assert same_weights(again.quantized, after.quantized)
    assert again.student_to_train().levels == after.student_to_train().levels
    assert again.passes == after.passes


def test_a_later_pass_goes_on_with_the_levels(ready: TrainState) -> None:
    after = QuantizedDistillation(1)(QuantizationPoints(1)(ready))
    assert all(isinstance(layer.weight_step, WeightLevels) for layer in after.student_to_train().inner())


@pytest.mark.device
@pytest.mark.parametrize("device", target_names())
def test_learned_tables_compute_on_the_device_what_the_reference_computes(ready: TrainState, device: str) -> None:
    student = QuantizationPoints(1)(ready).student_to_train()
    target = device_or_skip(device)
    graph = freeze(student, "points")
    kernels = choose_kernels(graph, target)
    assert any(kernel.variant.startswith("codebook_") for kernel in kernels[1:-1])
    library = lowered(graph, target, kernels)
    with open_runner(library) as runner:
        proof = verify(library, ready.data.test.codes()[:8], runner)
    assert proof.differing == 0, proof.first_difference
