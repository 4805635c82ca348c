"""The quantized student: bits of each tensor, its three modes, and exactness against the integer reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from qkd.bits import Bits
from qkd.data.pixels import image_batch
from qkd.recipe import ModelSpec
from qkd.student.freeze import freeze
from qkd.student.models import MODELS, build_model
from qkd.student.quantizer import CodeRange
from qkd.student.student import calibrate, prepare
from qkd.student.weighted_layers import zero_pad
from tests.support.networks import SHAPE, Everything, differing, random_pixels, scramble, small_student

FORMATS = ["W8A8", "W4A8", "W4A4", "W3A5", "W2A8", "ternary-A8", "ternary-A4"]


@pytest.mark.parametrize("bits", FORMATS)
def test_exact_mode_equals_the_reference_in_every_tensor(bits: str) -> None:
    bad, elements = differing(small_student(bits), random_pixels(SHAPE, 50, seed=9))
    assert bad == 0
    assert elements > 20_000


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(FORMATS))
def test_exact_mode_equals_the_reference_for_any_weights(seed: int, bits: str) -> None:
    assert differing(small_student(bits, seed), random_pixels(SHAPE, 10, seed))[0] == 0


def test_exact_mode_equals_the_reference_after_training_steps_through_it() -> None:
    student = small_student("W4A4").train()
    student.mode = "exact"
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    images, labels = image_batch(random_pixels(SHAPE, 32)), torch.arange(32) % 5
    before = freeze(student, "net").sha256()
    for _ in range(5):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(student(images), labels).backward()
        optimiser.step()
    assert freeze(student, "net").sha256() != before
    assert differing(student, random_pixels(SHAPE, 50, seed=9))[0] == 0


@pytest.mark.parametrize("name", ["resnet8", "ds_cnn", "digits_student", "autoencoder"])
def test_every_student_of_the_library_is_exact(name: str) -> None:
    classes, shape = {"ds_cnn": (12, (49, 10, 1)), "autoencoder": (64, (1, 1, 64))}.get(name, (10, (16, 16, 3)))
    model = scramble(build_model(ModelSpec(model=name), classes, shape, seed=1)).eval()
    student = prepare(model, Bits.parse("W4A8"), shape)
    pixels = random_pixels(shape, 8)
    calibrate(student, image_batch(pixels))
    assert differing(student, pixels)[0] == 0
    assert name in MODELS


def test_products_beyond_24_bits_are_still_exact() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(600, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        torch.nn.init.uniform_(model[0].weight, 0.9, 1.0)  # type: ignore[arg-type]
    student = prepare(model.eval(), Bits.parse("W8A8"), (3, 3, 600))
    pixels = np.maximum(random_pixels((3, 3, 600), 20), 250)
    calibrate(student, image_batch(pixels))
    assert differing(student, pixels)[0] == 0


def test_real_mode_computes_the_float_network() -> None:
    model = scramble(Everything()).eval()
    student = prepare(model, Bits.parse("W4A8"), SHAPE)
    images = image_batch(random_pixels(SHAPE, 6))
    with student.running("real"):
        torch.testing.assert_close(student(images), model(images), rtol=1e-5, atol=1e-5)


def test_the_exact_and_the_fake_quantized_forward_have_nearly_the_same_gradients() -> None:
    images, labels = image_batch(random_pixels(SHAPE, 16)), torch.arange(16) % 5
    gradients = {}
    for mode in ("fake", "exact"):
        student = small_student("W8A8")
        with student.running(mode):  # type: ignore[arg-type]
            torch.nn.functional.cross_entropy(student(images), labels).backward()
        parts = [p.grad.flatten() for p in student.parameters() if p.grad is not None]
        gradients[mode] = torch.cat(parts)
    cosine = torch.nn.functional.cosine_similarity(gradients["fake"], gradients["exact"], dim=0)
    assert cosine > 0.999


def test_outer_weights_and_activations_that_no_product_reads_keep_eight_bits() -> None:
    student = small_student("ternary-A4")
    weights = {layer.name: layer.weight_step.codes for layer in student.weighted()}
    assert list(weights.values()) == [CodeRange(-127, 127)] + [CodeRange(-1, 1)] * 5 + [CodeRange(-127, 127)]
    outputs = {layer.name: layer.output.codes for layer in student.ordered() if layer.output is not None}
    assert outputs["conv_0"] == CodeRange(0, 15)  # read by a convolution and an add
    assert outputs["conv_1"] == CodeRange(-128, 127)  # a branch that only the add reads
    assert outputs["conv_5"] == CodeRange(-128, 127)  # only pooled
    assert outputs["pool_7"] == CodeRange(-8, 7)  # flattened into the hidden layer
    assert outputs["fc_9"] == CodeRange(0, 255)  # the classifier's input


def test_the_classifier_has_one_step_and_hidden_layers_one_a_channel() -> None:
    shapes = [tuple(layer.weight_step.raw.shape) for layer in small_student().weighted()]
    assert shapes[0] == (8, 1, 1, 1)
    assert shapes[-1] == (1, 1)


def test_preparing_leaves_the_float_network_as_it_was() -> None:
    model = Everything().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prepare(model, Bits.parse("W2A2"), SHAPE)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_calibration_keeps_the_running_statistics() -> None:
    student = small_student()
    before = {k: v.clone() for k, v in student.state_dict().items() if "running" in k}
    calibrate(student.train(), image_batch(random_pixels(SHAPE, 8, seed=5)))
    assert student.training
    assert all(torch.equal(student.state_dict()[k], v) for k, v in before.items())


def test_the_mode_is_restored_when_the_forward_fails() -> None:
    student = small_student()
    with pytest.raises(RuntimeError), student.running("exact"):
        student(torch.zeros(1, 99, 2, 2))
    assert student.mode == "fake"


@pytest.mark.parametrize("padding", [(0, 1, 0, 1), (1, 2, 0, 3)])
def test_zeros_around_an_image_have_the_gradient_of_torch_s_own_padding(padding: tuple[int, int, int, int]) -> None:
    ours, torch_s = (torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5).requires_grad_() for _ in range(2))
    results = zero_pad(ours, padding), pad(torch_s, padding)
    for result in results:
        places = torch.arange(result.numel()).reshape(result.shape)
        (result.square() * places).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(*results)
    assert ours.grad is not None
    assert torch_s.grad is not None
    assert torch.equal(ours.grad, torch_s.grad)
