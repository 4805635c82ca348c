"""Float networks by name: what a recipe's teacher and student can be.

A student must be built of what `qkd.student.tracing` knows (convolution, batch norm, ReLU, add, pools, linear); a
teacher may be any module. Every builder takes (classes, input_shape HWC) and its own options.
"""

import copy
import importlib
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, gelu, relu, unfold

from qkd.errors import RecipeError
from qkd.recipe import ModelSpec

Shape: TypeAlias = tuple[int, int, int]
Builder: TypeAlias = Callable[..., nn.Module]


def same_padding(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> tuple[int, int, int, int]:
    """TensorFlow's "same" as (left, right, top, bottom): an odd pixel goes to the right and the bottom.

    >>> same_padding((32, 32), (3, 3), (2, 2))
    (0, 1, 0, 1)
    """
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
    (top, left), (bottom, right) = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return left, right, top, bottom


def conv_block(
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    *,
    depthwise: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    """Convolution with padding "same" and without bias, batch norm and, if asked for, ReLU."""
    before, after = channels
    left, right, top, bottom = same_padding(size, kernel, stride)
    even = left == right and top == bottom  # then the convolution pads by itself, which saves a copy
    inner = (top, left) if even else (0, 0)
    conv = nn.Conv2d(before, after, kernel, stride, inner, groups=before if depthwise else 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    pad = [] if even else [nn.ZeroPad2d((left, right, top, bottom))]
    return nn.Sequential(*pad, conv, nn.BatchNorm2d(after), *([nn.ReLU()] if relu else []))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a strided 1x1 convolution where the shape changes."""

    def __init__(self, channels: tuple[int, int], size: tuple[int, int], stride: int) -> None:
        super().__init__()
        before, after = channels
        strides = (stride, stride)
        smaller = (-(-size[0] // stride), -(-size[1] // stride))
        self.conv1 = conv_block(channels, size, stride=strides)
        self.conv2 = conv_block((after, after), smaller, relu=False)
        changes = stride != 1 or before != after
        self.shortcut = conv_block(channels, size, (1, 1), strides, relu=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum of both branches."""
        return relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of residual blocks that halve the image and double the channels, a mean and a classifier."""

    def __init__(self, classes: int, input_shape: Shape, width: int = 16, stages: int = 3, blocks: int = 1) -> None:
        super().__init__()
        height, length, channels = input_shape
        size = (height, length)
        self.stem = conv_block((channels, width), size)
        layers: list[nn.Module] = []
        before = width
        for stage in range(stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock((before, width << stage), size, stride))
                before, size = width << stage, (-(-size[0] // stride), -(-size[1] // stride))
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))  # type: ignore[no-any-return]


def resnet8(classes: int, input_shape: Shape, width: int = 16) -> nn.Module:
    """MLPerf Tiny's image classification network; `width` 32 is a teacher of four times its cost.

    Its shortcuts have a bias and no batch norm in MLPerf Tiny; here they have one, which folds into that bias.
    """
    return ResNet(classes, input_shape, width)


def resnet20(classes: int, input_shape: Shape, width: int = 16) -> nn.Module:
    """The CIFAR-10 network of 20 layers (He et al. 2015), with strided 1x1 shortcuts."""
    return ResNet(classes, input_shape, width, blocks=3)


class SpeedyNet(nn.Module):
    """A teacher that trains in few epochs: whitened 2x2 patches, three stages of two convolutions, max pools.

    The idea of whitened first layers and scaled logits is Keller Jordan's airbench (arXiv 2404.00498).
    `initialise` must see training images once, before the first step.
    """

    def __init__(self, classes: int, input_shape: Shape, width: int = 32) -> None:
        super().__init__()
        patch = 4 * input_shape[2]
        self.whiten = nn.Conv2d(input_shape[2], 2 * patch, 2)
        self.whiten.weight.requires_grad_(False)
        widths = (2 * patch, width, 4 * width, 4 * width)
        self.stages = nn.Sequential(*(self._stage(a, b) for a, b in itertools.pairwise(widths)))
        self.classifier = nn.Linear(widths[-1], classes, bias=False)
        self.logit_scale = 1 / 9

    @staticmethod
    def _stage(before: int, after: int) -> nn.Sequential:
        first = nn.Conv2d(before, after, 3, padding=1, bias=False)
        second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        for conv in (first, second):
            nn.init.dirac_(conv.weight[: conv.in_channels])
        norms = [nn.BatchNorm2d(after, momentum=0.2) for _ in range(2)]
        return nn.Sequential(first, nn.MaxPool2d(2), norms[0], nn.GELU(), second, norms[1], nn.GELU())

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Make the first layer's outputs uncorrelated on `images` (N, C, H, W): eigenvectors of 2x2 patches, ±."""
        patches = unfold(images, 2).transpose(1, 2).reshape(-1, self.whiten.weight[0].numel()).double()
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, *self.whiten.weight.shape[1:])
        self.whiten.weight.copy_(torch.cat([filters, -filters]).float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        # not amax: in bfloat16, compiled, its gradient divides by the number of elements that are the maximum: none
        features = adaptive_max_pool2d(self.stages(gelu(self.whiten(x))), 1).flatten(1)
        return self.classifier(features) * self.logit_scale  # type: ignore[no-any-return]


def digits_student(classes: int, input_shape: Shape, width: int = 16) -> nn.Module:
    """A small network for 8x8 images with a strided, a depthwise and a 1x1 convolution."""
    height, length, channels = input_shape
    size, half = (height, length), (-(-height // 2), -(-length // 2))
    return nn.Sequential(
        conv_block((channels, width), size),
        conv_block((width, 2 * width), size, stride=(2, 2)),
        conv_block((2 * width, 2 * width), half, depthwise=True),
        conv_block((2 * width, 2 * width), half, (1, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def digits_teacher(classes: int, input_shape: Shape, width: int = 32) -> nn.Module:
    """A plain network about ten times the size of `digits_student`."""
    height, length, channels = input_shape
    size, half = (height, length), (-(-height // 2), -(-length // 2))
    return nn.Sequential(
        conv_block((channels, width), size),
        conv_block((width, width), size),
        conv_block((width, 2 * width), size, stride=(2, 2)),
        conv_block((2 * width, 2 * width), half),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, classes),
    )


def ds_cnn(classes: int, input_shape: Shape, width: int = 64, blocks: int = 4) -> nn.Module:
    """MLPerf Tiny's keyword spotting network: 49x10x1 features, a 10x4 stem, depthwise separable blocks."""
    height, length, channels = input_shape
    layers = [conv_block((channels, width), (height, length), (10, 4), (2, 2))]
    half = (-(-height // 2), -(-length // 2))
    for _ in range(blocks):
        layers += [conv_block((width, width), half, depthwise=True), conv_block((width, width), half, (1, 1))]
    return nn.Sequential(*layers, nn.AvgPool2d(half), nn.Flatten(), nn.Linear(width, classes))


def autoencoder(classes: int, input_shape: Shape, width: int = 128, code: int = 8) -> nn.Module:
    """MLPerf Tiny's anomaly detection network: ten fully connected layers around a narrow code.

    `classes` is the length of the reconstruction (640 in MLPerf Tiny, as the input's).
    """
    inputs = input_shape[0] * input_shape[1] * input_shape[2]
    widths = (inputs, width, width, width, width, code, width, width, width, width)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


MODELS: Mapping[str, Builder] = {
    "resnet8": resnet8,
    "resnet20": resnet20,
    "speedy_net": SpeedyNet,
    "digits_student": digits_student,
    "digits_teacher": digits_teacher,
    "ds_cnn": ds_cnn,
    "autoencoder": autoencoder,
}


def build_model(spec: ModelSpec, classes: int, input_shape: Shape, seed: int) -> nn.Module:
    """Build a float network with weights drawn from `seed`; RecipeError where name, options or outputs do not fit."""
    builder = find_builder(spec.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = builder(classes, input_shape, **spec.options)
            logits = model.eval()(torch.zeros(2, input_shape[2], *input_shape[:2]))
            copy.deepcopy(model)  # passes train copies
        except Exception as error:  # whatever the user's own code raises
            known = ", ".join(list(inspect.signature(builder).parameters)[2:]) or "none"
            raise RecipeError(
                f"model {spec.model!r} cannot be built with options {spec.options} for inputs {input_shape}: "
                f"{type(error).__name__}: {error}; its options: {known}"
            ) from error
    if not isinstance(logits, Tensor):
        raise RecipeError(f"model {spec.model!r} gives {type(logits).__name__}, not a tensor of logits (N, {classes})")
    if tuple(logits.shape) != (2, classes):
        raise RecipeError(
            f"model {spec.model!r} gives outputs of shape {tuple(logits.shape[1:])}; the data has {classes} classes, "
            f"so it must give ({classes},): let the builder use its first argument, the number of classes"
        )
    return model.train()


def find_builder(name: str) -> Builder:
    """The builder behind a name of `MODELS` or behind `package.module:function`."""
    if name in MODELS:
        return MODELS[name]
    module, separator, function = name.partition(":")
    if not separator:
        raise RecipeError(f"unknown model {name!r}; known: {', '.join(MODELS)}, or package.module:function")
    try:
        builder: Any = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever importing the user's own code raises
        raise RecipeError(
            f"model {name!r} cannot be imported: {type(error).__name__}: {error}; is its package on PYTHONPATH?"
        ) from error
    if not callable(builder):
        raise RecipeError(f"model {name!r} is {type(builder).__name__}, not a function that builds a network")
    return builder  # type: ignore[no-any-return]
