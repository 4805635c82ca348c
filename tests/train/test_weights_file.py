"""Weights that a user brings stand in for pretraining; what does not fit is refused by the name of a tensor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qkd.base.progress import Silent
from qkd.bits import Bits
from qkd.errors import RecipeError
from qkd.passes import build_train_passes
from qkd.recipe import load_recipe, parse_recipe
from qkd.student.models import ResNet, digits_student, digits_teacher, resnet8, resnet20
from qkd.train.digests import network_sha256
from qkd.train.training_run import check_passes, train, trained_networks
from qkd.train.weights_file import save_weights, use_weights

SHAPE = (8, 8, 1)
TABLE: dict[str, Any] = {
    "name": "brought", "bits": ["W4A8"], "devices": ["host"], "data": {"name": "digits", "validation": 300},
    "teacher": {"model": "digits_teacher"}, "student": {"model": "digits_student"},
    "train": {"batch_size": 256, "threads": 1},
    "passes": [{"name": "quantize", "norm_batches": 2}, {"name": "distill", "epochs": 1}],
}  # fmt: skip


def net() -> ResNet:
    network = resnet8(10, (32, 32, 3))
    assert isinstance(network, ResNet)
    return network


def test_weights_come_back_as_they_were_saved(tmp_path: Path) -> None:
    first, second = net(), net()
    save_weights(first.to(memory_format=torch.channels_last), tmp_path / "net.safetensors")  # type: ignore[call-overload]
    use_weights(second, tmp_path / "net.safetensors")
    assert network_sha256(second) == network_sha256(first)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_dict_of_torch_is_read(wrapped: bool, tmp_path: Path) -> None:
    first, second = net(), net()
    content = {"epoch": 3, "state_dict": first.state_dict()} if wrapped else first.state_dict()
    torch.save(content, tmp_path / "net.pt")
    use_weights(second, tmp_path / "net.pt")
    assert network_sha256(second) == network_sha256(first)


def test_another_architecture_is_refused_by_the_first_tensor_that_does_not_fit(tmp_path: Path) -> None:
    save_weights(resnet20(10, (32, 32, 3)), tmp_path / "net.safetensors")
    with pytest.raises(RecipeError, match=r"another architecture: [\w.]+ is .* there and .* in the recipe's network"):
        use_weights(net(), tmp_path / "net.safetensors")


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path) -> None:
    network = net()
    name, tensor = next(iter(network.state_dict().items()))
    tensor.view(-1)[0] = torch.nan
    save_weights(network, tmp_path / "net.safetensors")
    with pytest.raises(RecipeError, match=f"{name} in .* holds NaN"):
        use_weights(net(), tmp_path / "net.safetensors")


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no weights at"):
        use_weights(net(), tmp_path / "missing.safetensors")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("nothing of the kind")
        with pytest.raises(RecipeError, match="holds no weights"):
            use_weights(net(), tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RecipeError, match="holds list, not the tensors"):
        use_weights(net(), tmp_path / "list.pt")


def with_weights(folder: Path) -> dict[str, Any]:
    """The table with weights for both networks, written as a user would name them."""
    save_weights(digits_teacher(10, SHAPE), folder / "teacher.safetensors")
    save_weights(digits_student(10, SHAPE), folder / "student.safetensors")
    return TABLE | {
        role: TABLE[role] | {"weights": str(folder / f"{role}.safetensors")} for role in ("teacher", "student")
    }


def test_networks_with_weights_need_no_pretraining(tmp_path: Path) -> None:
    recipe = parse_recipe(with_weights(tmp_path), "test")
    state = train(recipe, build_train_passes(recipe.passes), Bits.parse("W4A8"), tmp_path / "run", Silent())
    brought, kept = load_file(tmp_path / "teacher.safetensors"), state.teacher.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in brought.items())
    assert [fact.name for fact in state.passes] == ["quantize", "distill"]


def test_without_weights_the_order_is_refused() -> None:
    recipe = parse_recipe(TABLE, "test")
    with pytest.raises(RecipeError, match="has been trained"):
        check_passes(build_train_passes(recipe.passes), trained_networks(recipe))


def test_paths_stand_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'name = "r"\nbits = ["W4A8"]\ndevices = ["host"]\npasses = [{ name = "quantize" }]\n'
        'data = { name = "digits", validation = 300 }\nteacher = { model = "t", weights = "t.pt" }\n'
        'student = { model = "s", weights = "/s.pt" }\n'
    )
    loaded = load_recipe(recipe)
    assert (loaded.teacher.weights, loaded.student.weights) == (str(tmp_path / "t.pt"), "/s.pt")
