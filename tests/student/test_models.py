"""The float networks: shapes of MLPerf Tiny, seeds, and how wrong names and options are worded."""

import pytest
import torch
from torch import Tensor, nn

from qkd.bits import Bits
from qkd.errors import RecipeError
from qkd.recipe import ModelSpec
from qkd.student.freeze import freeze
from qkd.student.models import SpeedyNet, build_model, same_padding
from qkd.student.student import prepare


def graph_macs(name: str, classes: int, shape: tuple[int, int, int]) -> int:
    student = prepare(build_model(ModelSpec(model=name), classes, shape, 0).eval(), Bits.parse("W8A8"), shape)
    graph = freeze(student, name)
    return sum(graph.macs(op) for op in graph.ops)


def test_resnet8_has_the_macs_of_mlperf_tiny() -> None:
    assert graph_macs("resnet8", 10, (32, 32, 3)) == 12_501_632


def test_ds_cnn_has_the_macs_of_mlperf_tiny() -> None:
    assert graph_macs("ds_cnn", 12, (49, 10, 1)) == 2_656_768


def test_the_autoencoder_has_the_macs_of_mlperf_tiny() -> None:
    assert graph_macs("autoencoder", 640, (1, 1, 640)) == 264_192


def test_strided_convolutions_of_resnet8_pad_at_the_bottom_and_the_right() -> None:
    model = build_model(ModelSpec(model="resnet8"), 10, (32, 32, 3), 0)
    assert [m.padding for m in model.modules() if isinstance(m, nn.ZeroPad2d)] == [(0, 1, 0, 1)] * 2


def test_same_padding_of_an_odd_size() -> None:
    assert same_padding((49, 10), (10, 4), (2, 2)) == (1, 1, 4, 5)


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_model(ModelSpec(model="digits_student"), 10, (8, 8, 1), s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), before)
    weights = [next(m.parameters()) for m in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_whitening_makes_patches_uncorrelated_with_unit_variance() -> None:
    net = SpeedyNet(10, (16, 16, 3), width=8)
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)).cumsum(3)
    net.initialise(images)
    with torch.no_grad():
        net.whiten.bias.zero_()  # type: ignore[union-attr]
        features = net.whiten(images)[:, :12].transpose(0, 1).reshape(12, -1)
    second_moment = features @ features.T / features.shape[1]
    torch.testing.assert_close(second_moment, torch.eye(12), atol=0.02, rtol=0)


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'resnet9'; known: resnet8, .*package\.module:function"):
        build_model(ModelSpec(model="resnet9"), 10, (32, 32, 3), 0)


def test_an_unknown_option_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="its options: width"):
        build_model(ModelSpec(model="resnet8", options={"depth": 3}), 10, (32, 32, 3), 0)


def test_a_negative_width_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be built"):
        build_model(ModelSpec(model="resnet8", options={"width": -1}), 10, (32, 32, 3), 0)


SHAPE = (4, 4, 1)


def own_model(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Ignores the number of classes, as a user's mistake might."""
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], 7))


def test_a_model_with_another_number_of_classes_is_refused() -> None:
    assert build_model(ModelSpec(model="tests.student.test_models:own_model"), 7, (4, 4, 1), 0).training
    with pytest.raises(RecipeError, match="10 classes"):
        build_model(ModelSpec(model="tests.student.test_models:own_model"), 10, (4, 4, 1), 0)


@pytest.mark.parametrize(
    "name", ["no_such_package:f", "tests.student.test_models:absent", "tests.student.test_models:SHAPE", ":f"]
)
def test_a_path_that_cannot_be_imported_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=r"imported|not a function"):
        build_model(ModelSpec(model=name), 10, (4, 4, 1), 0)


class TwoOutputs(nn.Module):
    """Its forward gives a pair."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing that a loss could take."""
        return x, x


def pair(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Gives two outputs."""
    return TwoOutputs()


def uncopied(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Keeps a tensor with a history, which torch does not copy."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    network.history = torch.ones(1, requires_grad=True) * 2  # type: ignore[assignment]
    return network


def lookup(classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Fails in its own way."""
    return {}[classes]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pair", "gives tuple, not a tensor of logits"), ("uncopied", "cannot be built.*RuntimeError"),
        ("lookup", "cannot be built.*KeyError: 4"),
    ],
)  # fmt: skip
def test_whatever_a_user_s_builder_does_wrong_is_one_message(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_model(ModelSpec(model=f"tests.student.test_models:{name}"), 4, SHAPE, 0)
