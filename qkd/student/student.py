"""The quantized student: a float network rebuilt of layers that mirror the integer graph, and how it is prepared."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qkd.bits import Bits
from qkd.data.pixels import INPUT_STEP, image_batch
from qkd.errors import InvariantError, UnsupportedOpError
from qkd.recipe import QuantizerSpec
from qkd.student.activation import ActivationQuantizer, Coded, Grid, Logits
from qkd.student.layers import AddLayer, AveragePoolLayer, FlattenLayer, Layer, MaxPoolLayer
from qkd.student.levels import LevelSpec, WeightLevels
from qkd.student.quantizer import CodeRange, LearnedStep, weight_range
from qkd.student.ternary import AsymmetricTernary
from qkd.student.traced import INPUT, TracedOp
from qkd.student.tracing import trace
from qkd.student.weighted_layers import ConvLayer, Geometry, LinearLayer, WeightArguments, WeightedLayer

OUTER_BITS = 8
"""Of the first and last layer's weights, and of activations that no product reads."""
FIRST_IMAGES = 2000
PLAIN_STEPS = QuantizerSpec()

Mode: TypeAlias = Literal["real", "fake", "exact"]
Shape: TypeAlias = tuple[int, int, int]


class QuantStudent(nn.Module):
    """A network of `qkd.student.layers`, run in the order of its operators.

    Attributes
    ----------
    mode : {"real", "fake", "exact"}
        How `forward` computes; "fake" is what is trained.
    levels : LevelSpec or None
        What quantizes the weights between the first and the last layer; None: learned steps.
    """

    def __init__(self, layers: tuple[Layer, ...], input_shape: Shape, bits: Bits) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.input_shape = input_shape
        self.bits = bits
        self.mode: Mode = "fake"
        self.levels: LevelSpec | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) that lie on the input's grid."""
        if self.mode == "exact":
            last = self.run_exact(x)[self.ordered()[-1].name]
            return last.real if isinstance(last, Logits) else last.codes * last.grid.step
        known = {INPUT: x}
        for layer in self.ordered():
            compute = layer.real if self.mode == "real" else layer.fake
            known[layer.name] = compute(*(known[source] for source in layer.sources))
        return known[layer.name]

    def run_exact(self, x: Tensor) -> dict[str, Coded | Logits]:
        """The input's and every layer's codes by name, the classifier's logits."""
        known: dict[str, Coded | Logits] = {INPUT: Coded(x / INPUT_STEP, self.input_grid())}
        for layer in self.ordered():
            known[layer.name] = layer.exact(*(known[source] for source in layer.sources))
        return known

    def ordered(self) -> tuple[Layer, ...]:
        """The layers in execution order."""
        return tuple(cast(Layer, layer) for layer in self.layers)

    def weighted(self) -> tuple[WeightedLayer, ...]:
        """The layers that have weights."""
        return tuple(layer for layer in self.ordered() if isinstance(layer, WeightedLayer))

    def inner(self) -> tuple[WeightedLayer, ...]:
        """The layers whose weights have the format's bits: all but the first and the last."""
        return self.weighted()[1:-1]

    def use_levels(self, spec: LevelSpec) -> None:
        """Quantize the inner layers' weights on free levels from now on."""
        for layer, count in zip(self.inner(), spec.counts, strict=True):
            layer.weight_step = WeightLevels(spec, count, tuple(layer.weight.shape))
        self.levels = spec

    def on_levels(self) -> tuple[tuple[WeightedLayer, WeightLevels], ...]:
        """The layers whose weights lie on free levels, and those levels."""
        found = ((layer, layer.weight_step) for layer in self.inner())
        return tuple((layer, levels) for layer, levels in found if isinstance(levels, WeightLevels))

    def free_thresholds(self) -> None:
        """Let ternary weights learn where they leave zero, one threshold a side."""
        for layer in self.inner():
            plain = layer.weight_step
            if isinstance(plain, LearnedStep) and plain.codes.magnitude == 1:
                shape = tuple(plain.raw.shape)
                layer.weight_step = AsymmetricTernary(plain.codes, shape, layer.weight.numel() // plain.raw.numel())

    def snap_levels(self) -> None:
        """Compute fake mode with the int8 codes that the device will have, instead of with free levels."""
        for _, levels in self.on_levels():
            levels.snapped = True

    @torch.no_grad()
    def steps(self) -> dict[str, Tensor]:
        """Every learned step, by the name of its layer and what it is of."""
        found = {f"{layer.name}.weight": layer.weight_scale() for layer in self.weighted()}
        return found | {f"{layer.name}.output": layer.output.step() for layer in self.ordered() if layer.output}

    @staticmethod
    def input_grid() -> Grid:
        """Where the input's codes lie."""
        return Grid(torch.tensor(INPUT_STEP), CodeRange(-128, 127), 0)

    def grids(self) -> dict[str, Grid]:
        """The grid of the input and of every layer that gives codes, by name."""
        known = {INPUT: self.input_grid()}
        for layer in self.ordered():
            if layer.output is not None:
                known[layer.name] = layer.output.grid()
            elif not isinstance(layer, WeightedLayer):
                known[layer.name] = known[layer.sources[0]]
        return known

    @contextmanager
    def running(self, mode: Mode) -> Iterator["QuantStudent"]:
        """Evaluate in another mode, then go back to the present one."""
        before = self.mode
        self.mode = mode
        try:
            yield self
        finally:
            self.mode = before


def prepare(model: nn.Module, bits: Bits, input_shape: Shape, quantizer: QuantizerSpec = PLAIN_STEPS) -> QuantStudent:
    """Rebuild a trained float network as a quantized student, with weight steps fitted and activation steps not yet.

    Parameters
    ----------
    model : nn.Module
        Float, traceable, of the operators in `qkd.student.traced.ALLOWED`; left as it was.
    bits : Bits
        The first and last layer's weights keep 8 bits, and so do activations that feed no convolution or hidden
        linear layer: the branches of an add, the classifier's input.
    input_shape : (H, W, C)
    quantizer : QuantizerSpec
        What ternary thresholds are.

    Raises
    ------
    UnsupportedOpError
        Where an operator has no integer form, or a weight is NaN.
    """
    ops = trace(model, input_shape)
    if all(op.module is None for op in ops):
        raise UnsupportedOpError(f"{type(model).__name__} has no convolution or linear layer: nothing to quantize")
    _check_classifier(ops[-1])
    student = QuantStudent(tuple(_build(op, ops, bits) for op in ops), input_shape, bits)
    if quantizer.ternary_thresholds == "asymmetric":
        student.free_thresholds()
    for layer in student.weighted():
        layer.start_weight_step()
    return student.train(model.training)


@torch.no_grad()
def calibrate(student: QuantStudent, images: Tensor) -> None:
    """Fit every activation's step to one batch (N, C, H, W), from the input to the output; statistics stay."""
    quantizers = [layer.output for layer in student.ordered() if layer.output is not None]
    training = student.training
    student.eval()
    for quantizer in quantizers:
        quantizer.calibrating = True
    with student.running("fake"):
        student(images.to(student.weighted()[0].weight.device))
    for quantizer in quantizers:
        quantizer.calibrating = False
    student.train(training)


@torch.no_grad()
def run_codes(student: QuantStudent, codes: NDArray[np.int8]) -> dict[str, NDArray[np.int64]]:
    """What exact mode computes, as the device stores it: NHWC codes and int32 logits by name of layer.

    Parameters
    ----------
    codes : int8 array of shape (N, H, W, C)
        Input codes, pixel - 128.
    """
    x = torch.from_numpy(codes).permute(0, 3, 1, 2).float() * INPUT_STEP
    known = student.eval().run_exact(x.contiguous(memory_format=torch.channels_last))
    return {name: _stored_nhwc(value) for name, value in known.items()}


def fit_first_weights(network: nn.Module, pixels: NDArray[np.uint8]) -> None:
    """Let a network whose first weights depend on the data (it has a method `initialise`) see the first images."""
    initialise = getattr(network, "initialise", None)
    if callable(initialise):
        initialise(image_batch(pixels[:FIRST_IMAGES]))


def _stored_nhwc(value: Coded | Logits) -> NDArray[np.int64]:
    stored = value.integers if isinstance(value, Logits) else value.stored()
    return (stored.permute(0, 2, 3, 1) if stored.dim() == 4 else stored).contiguous().numpy()


def _check_classifier(last: TracedOp) -> None:
    if last.kind == "linear" and (last.norm is not None or last.rectified):
        raise UnsupportedOpError(
            f"{last.origin!r} is the last layer and has a batch norm or ReLU behind it; "
            "its logits would not compare between classes as integers: leave them out"
        )


def _build(op: TracedOp, ops: tuple[TracedOp, ...], bits: Bits) -> Layer:
    if op.kind == "max_pool":
        return MaxPoolLayer(op.name, op.sources[0], op.kernel, op.stride)
    if op.kind == "flatten":
        return FlattenLayer(op.name, op.sources[0])
    if op.kind == "linear":
        output = None if op is ops[-1] else _quantizer(op, ops, bits)
        return LinearLayer(op.name, op.sources[0], output, **_weights(op, ops, bits))
    output = _quantizer(op, ops, bits)
    if op.kind == "add":
        return AddLayer(op.name, (op.sources[0], op.sources[1]), output, op.rectified)
    if op.kind == "average_pool":
        return AveragePoolLayer(op.name, op.sources[0], output, op.kernel, op.stride)
    groups = op.shape[0] if op.kind == "depthwise" else 1
    geometry = Geometry(op.stride, op.padding, groups)
    return ConvLayer(op.name, op.sources[0], output, geometry, **_weights(op, ops, bits))


def _quantizer(op: TracedOp, ops: tuple[TracedOp, ...], bits: Bits) -> ActivationQuantizer:
    classifier = [o for o in ops if o.module is not None][-1]
    hidden = any(reader.module is not None and reader is not classifier for reader in _readers(op.name, ops))
    elements = math.prod(op.shape)
    return ActivationQuantizer(bits.activation if hidden else OUTER_BITS, not op.rectified, elements)


def _readers(name: str, ops: tuple[TracedOp, ...]) -> Iterator[TracedOp]:
    """Operators that read a tensor's codes, directly or behind a max pool or flatten."""
    for op in ops:
        if name in op.sources:
            yield op
            if op.kind in ("max_pool", "flatten"):
                yield from _readers(op.name, ops)


def _weights(op: TracedOp, ops: tuple[TracedOp, ...], bits: Bits) -> WeightArguments:
    if op.module is None:
        raise InvariantError(f"{op.name} of kind {op.kind} has no weights")
    weighted = [o for o in ops if o.module is not None]
    outer = op is weighted[0] or op is weighted[-1]
    weight = op.module.weight
    image = next((o.flattened for o in ops if o.name == op.sources[0]), None)
    if op.kind == "linear" and image is not None:  # torch flattens channels first, the device channels last
        weight = weight.reshape(-1, *image).permute(0, 2, 3, 1).flatten(1)
    return {
        "weight": weight,
        "bias": op.module.bias,
        "norm": op.norm,
        "rectified": op.rectified,
        "codes": weight_range(OUTER_BITS if outer else bits.weight),
    }
