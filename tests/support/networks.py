"""Small float networks with random weights and statistics, for tests of everything above `freeze`."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, relu

from qkd.bits import Bits
from qkd.data.datasets import Dataset, Split
from qkd.data.pixels import image_batch, pixel_codes
from qkd.graph.reference import run
from qkd.recipe import TrainSpec
from qkd.student.freeze import freeze, output_value
from qkd.student.student import QuantStudent, calibrate, prepare, run_codes
from qkd.train.state import TrainState

SHAPE = (13, 11, 3)
"""(H, W, C) of the images that `Everything` takes."""


class Everything(nn.Module):
    """Every operator: asymmetric padding, depthwise, 1x1, residual add, both pools, a flatten that is not trivial."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.stride = nn.Sequential(nn.Conv2d(8, 10, 3, stride=2, bias=False), nn.BatchNorm2d(10), nn.ReLU())
        self.dw = nn.Sequential(nn.Conv2d(10, 10, 3, padding=1, groups=10, bias=False), nn.BatchNorm2d(10), nn.ReLU())
        self.point = nn.Conv2d(10, 12, 1)  # bias without norm, signed output
        self.drop = nn.Dropout(0.3)
        self.hidden = nn.Linear(12 * 2 * 2, 6)
        self.classifier = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = relu(x + self.branch(x))
        x = self.stride(pad(x, (0, 1, 0, 1)))
        x = max_pool2d(self.point(self.dw(x)), (2, 2), (1, 2))
        x = nn.functional.avg_pool2d(x, (2, 1))
        x = self.drop(x).flatten(1)
        return self.classifier(relu(self.hidden(x)))  # type: ignore[no-any-return]


def scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms random statistics, and scales of both signs with a zero among them."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_var is not None:
            with torch.no_grad():
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.2)  # type: ignore[union-attr]
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.randn(module.num_features, generator=generator))
                module.weight[0] = 0.0
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
    return model


def random_pixels(shape: tuple[int, int, int], count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images (N, H, W, C) over the whole range of a byte."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def small_student(bits: str = "W4A8", seed: int = 0) -> QuantStudent:
    """`Everything`, scrambled, prepared and calibrated on random images."""
    torch.manual_seed(seed)
    student = prepare(scramble(Everything(), seed).eval(), Bits.parse(bits), SHAPE)
    calibrate(student, image_batch(random_pixels(SHAPE, 32, seed)))
    return student


TINY = (6, 6, 1)
"""(H, W, C) of the images that `tiny_state` trains on."""


def tiny_data(seed: int = 0, count: int = 96) -> Dataset:
    """Three classes of 6x6 images that a small network can tell apart."""
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(40, 215, (3, *TINY))

    def split(size: int) -> Split:
        labels = rng.integers(0, 3, size)
        noise = rng.integers(-40, 41, (size, *TINY))
        return Split((prototypes[labels] + noise).clip(0, 255).astype(np.uint8), labels.astype(np.int64))

    return Dataset("tiny", split(count), split(48), split(48), 3, crop_padding=1, flip=False)


def tiny_network(width: int = 4) -> nn.Module:
    """A convolution and a classifier for `tiny_data`."""
    conv = nn.Conv2d(1, width, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 3))


def tiny_state(seed: int = 0, bits: str = "W4A8", **settings: Any) -> TrainState:
    """Untrained networks on `tiny_data`."""
    torch.manual_seed(seed)
    spec = TrainSpec.model_validate({"seed": seed, "batch_size": 32, "threads": 1} | settings)
    return TrainState(tiny_data(), spec, Bits.parse(bits), tiny_network(8), tiny_network())


def same_weights(first: nn.Module | None, second: nn.Module | None) -> bool:
    """Whether two networks hold the same bits, statistics included."""
    if first is None or second is None:
        return first is second
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def differing(student: QuantStudent, pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """How many elements of all tensors differ between exact mode and the frozen graph, and how many there are."""
    codes = pixel_codes(pixels)
    torch_side, graph_side = run_codes(student, codes), run(freeze(student, "net"), codes)
    assert {output_value(name) for name in torch_side} == set(graph_side)
    bad = sum(int((codes != graph_side[output_value(name)]).sum()) for name, codes in torch_side.items())
    return bad, sum(v.size for v in graph_side.values())
