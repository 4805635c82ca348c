"""Tracing: which float networks become operators, what is fused, and how the rest is refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qkd.bits import Bits
from qkd.errors import UnsupportedOpError
from qkd.student.student import prepare
from qkd.student.tracing import trace
from tests.support.networks import SHAPE, Everything

SMALL = (6, 6, 3)


def conv(**options: object) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1, **options)  # type: ignore[arg-type]


class Calls(nn.Module):
    """Calls one function between a convolution and a classifier."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.conv = conv()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))  # type: ignore[operator,no-any-return]


def kinds(model: nn.Module) -> list[str]:
    return [op.kind for op in trace(model, SMALL)]


def test_operators_are_fused_and_ordered() -> None:
    ops = trace(Everything(), SHAPE)
    assert [op.name for op in ops] == [
        "conv_0", "conv_1", "add_2", "conv_3", "dw_4", "conv_5", "max_6", "pool_7", "reshape_8", "fc_9", "fc_10",
    ]  # fmt: skip
    assert ops[3].padding == (0, 1, 0, 1)
    assert [op.rectified for op in ops] == [True, False, True, True, True, False, False, False, False, True, False]


def test_functions_methods_and_modules_mean_the_same() -> None:
    functions = Calls(lambda x: functional.adaptive_avg_pool2d(functional.relu(x), 1).view(-1, 3))
    methods = Calls(lambda x: x.relu().mean((2, 3)))
    modules = nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert kinds(functions) == kinds(methods) == kinds(modules) == ["conv", "average_pool", "flatten"]
    assert kinds(Calls(lambda x: functional.max_pool2d(x, 2))) == ["conv", "max_pool"]
    assert kinds(Calls(lambda x: functional.avg_pool2d(x, 2, 2))) == ["conv", "average_pool"]


def test_sizes_computed_from_the_input_are_no_operators() -> None:
    flat = Calls(lambda x: x.view(x.size(0), -1))
    assert kinds(nn.Sequential(flat, nn.Linear(108, 2))) == ["conv", "flatten", "linear"]


def test_paddings_add_up() -> None:
    model = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 2)), nn.ZeroPad2d(1), conv())
    assert trace(model, SMALL)[0].padding == (2, 3, 2, 4)


REFUSED = {
    "sigmoid": (Calls(torch.sigmoid), "not known"),
    "dilation": (conv(dilation=2), "dilation"),
    "groups": (nn.Conv2d(4, 8, 3, groups=2), "2 groups"),
    "reflecting padding": (conv(padding_mode="reflect"), "reflect"),
    "transposed": (nn.ConvTranspose2d(3, 3, 3), "not known"),
    "padded pool": (nn.Sequential(conv(), nn.MaxPool2d(3, 2, 1)), "max pool with padding"),
    "ceil mode": (nn.Sequential(conv(), nn.AvgPool2d(4, ceil_mode=True)), "ceil mode"),
    "adaptive pool to 2": (nn.Sequential(conv(), nn.AdaptiveAvgPool2d(2)), "only to 1"),
    "mean over channels": (Calls(lambda x: x.mean(1)), "dimensions"),
    "adding a constant": (Calls(lambda x: x + 1), "not an activation"),
    "broadcast add": (Calls(lambda x: x + functional.adaptive_avg_pool2d(x, 1)), "one shape"),
    "norm first": (nn.Sequential(nn.BatchNorm2d(3), conv()), "batch norm must follow"),
    "norm without statistics": (nn.Sequential(conv(), nn.BatchNorm2d(3, track_running_stats=False)), "statistics"),
    "ReLU of a shared output": (Calls(lambda x: functional.relu(x) + x), "nothing else reads"),
    "ReLU of a pool": (nn.Sequential(conv(), nn.MaxPool2d(2), nn.ReLU()), "ReLU must follow"),
    "padding before a pool": (nn.Sequential(conv(), nn.ZeroPad2d(1), nn.MaxPool2d(2)), "before a convolution"),
    "padding by negative numbers": (Calls(lambda x: functional.pad(x, (-1, 0, 0, 0))), "not negative"),
    "padding with ones": (Calls(lambda x: functional.pad(x, (1, 1, 1, 1), value=1.0)), "only with zeros"),
    "linear on an image": (nn.Sequential(conv(), nn.Linear(6, 2)), "flattened input"),
    "reshape to an image": (Calls(lambda x: x.reshape(-1, 9, 4, 3)), "only to"),
    "an earlier output": (Calls(lambda x: (functional.relu(x), x)[1]), "nothing else reads"),
    "control flow": (Calls(lambda x: x if x.sum() > 0 else -x), "cannot be traced"),
    "another image": (nn.Conv2d(4, 4, 3), "cannot be traced"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_integer_form_is_refused_by_name(case: str) -> None:
    model, message = REFUSED[case]
    shape = (6, 6, 4) if case == "groups" else SMALL
    with pytest.raises(UnsupportedOpError, match=message):
        trace(nn.Sequential(model), shape)


def test_the_refusal_names_the_node_and_what_is_allowed() -> None:
    with pytest.raises(UnsupportedOpError, match=r"'sigmoid'.*Allowed are Conv2d"):
        trace(Calls(torch.sigmoid), SMALL)


def test_a_batch_norm_behind_the_classifier_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.BatchNorm1d(4))
    with pytest.raises(UnsupportedOpError, match="logits would not compare"):
        prepare(model, Bits.parse("W4A8"), SMALL)


def test_a_network_without_weights_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="nothing to quantize"):
        prepare(nn.MaxPool2d(2), Bits.parse("W4A8"), SMALL)


def test_nan_in_the_weights_is_refused_by_layer() -> None:
    model = nn.Sequential(conv(), nn.Flatten(), nn.Linear(108, 4))
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan  # type: ignore[index]
    with pytest.raises(UnsupportedOpError, match="fc_2 hold NaN"):
        prepare(model, Bits.parse("W4A8"), SMALL)
