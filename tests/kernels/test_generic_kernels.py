"""Generic kernels equal the reference, tolerance 0: odd shapes, strides, paddings, widths, weights at their limits."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.lowering import lowered
from benchmarks.random_graphs import ACTIVATION_RANGES, WEIGHT_RANGES, RandomGraph, random_inputs
from qkd.graph import reference
from qkd.graph.graph import QuantGraph
from qkd.graph.steps import steps
from qkd.targets import load_target
from qkd.targets.kernels.generic import kernels as generic_kernels
from qkd.targets.running.runners import run_on

WEIGHTS = st.sampled_from(sorted(WEIGHT_RANGES))
ACTIVATIONS = st.sampled_from(sorted(ACTIVATION_RANGES))
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
FEW = settings(max_examples=15, deadline=None)


@dataclass(frozen=True)
class Geometry:
    """A window that fits its input."""

    shape: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    kernel = draw(PAIR)
    height, width = (draw(st.integers(size, size + 4)) for size in kernel)
    vertical, horizontal = (st.integers(0, size - 1) for size in kernel)
    padding = (draw(vertical), draw(vertical), draw(horizontal), draw(horizontal))
    return Geometry((height, width, draw(st.integers(1, 9))), kernel, draw(PAIR), padding)


def assert_host_equals_reference(graph: QuantGraph) -> None:
    host = load_target("host")
    kernels = [kernel for op in steps(graph) for kernel in generic_kernels(graph, op, host)]
    library = lowered(graph, host, kernels)
    inputs = random_inputs(graph, 4)
    entry = graph.values[graph.inputs[0]]
    inputs[0], inputs[1] = entry.qmin, entry.qmax
    expected = reference.run(graph, inputs)
    layers = run_on(library, inputs, trace=True).layers
    assert layers is not None
    for name, codes in layers.items():
        assert np.array_equal(codes, expected[name]), name


@FEW
@given(geometries(), WEIGHTS, ACTIVATIONS, ACTIVATIONS, st.integers(1, 7), st.booleans(), st.integers(0, 99))
def test_a_convolution_equals_the_reference(
    g: Geometry, weight: str, source: str, result: str, out: int, extreme: bool, seed: int
) -> None:  # fmt: skip
    graph = RandomGraph(seed, g.shape, source)
    y = graph.conv(
        graph.input,
        out,
        g.kernel,
        stride=g.stride,
        padding=g.padding,
        weight=weight,
        activation=result,
        extreme=extreme,
    )
    assert_host_equals_reference(graph.build(y))


@FEW
@given(geometries(), WEIGHTS, ACTIVATIONS, ACTIVATIONS, st.booleans(), st.integers(0, 99))
def test_a_depthwise_convolution_equals_the_reference(
    g: Geometry, weight: str, source: str, result: str, extreme: bool, seed: int
) -> None:  # fmt: skip
    graph = RandomGraph(seed, g.shape, source)
    y = graph.depthwise(
        graph.input, g.kernel, stride=g.stride, padding=g.padding, weight=weight, activation=result, extreme=extreme
    )
    assert_host_equals_reference(graph.build(y))


@FEW
@given(st.integers(1, 40), st.integers(1, 12), WEIGHTS, ACTIVATIONS, st.one_of(st.none(), ACTIVATIONS), st.booleans())
def test_a_fully_connected_layer_equals_the_reference_for_logits_and_for_codes(
    width: int, out: int, weight: str, source: str, result: str | None, extreme: bool
) -> None:
    graph = RandomGraph(width, (1, 1, width), source)
    y = graph.fully_connected(graph.flatten(graph.input), out, weight, result, extreme)
    assert_host_equals_reference(graph.build(y))


@FEW
@given(geometries(), ACTIVATIONS, ACTIVATIONS, ACTIVATIONS, st.integers(0, 99))
def test_pools_and_an_add_equal_the_reference(g: Geometry, source: str, pooled: str, added: str, seed: int) -> None:
    graph = RandomGraph(seed, g.shape, source)
    x = graph.max_pool(graph.input, g.kernel, g.stride)
    x = graph.add(x, x, added)
    height, width = graph.values[x].shape[1:3]
    y = graph.average_pool(x, (min(2, height), min(3, width)), pooled)
    assert_host_equals_reference(graph.build(y))


@pytest.mark.parametrize(("weight", "packed_bytes"), [("ternary", 12), ("2", 12), ("4", 20), ("8", 36)])
def test_weights_are_packed_into_as_few_bytes_as_their_width_allows(weight: str, packed_bytes: int) -> None:
    graph = RandomGraph(0, (4, 4, 1))
    conv = graph.build(graph.conv(graph.input, 4, (3, 3), weight=weight))
    [kernel] = generic_kernels(conv, conv.ops[0], load_target("host"))
    assert kernel.constants[0].nbytes == packed_bytes
    assert kernel.constants[1].nbytes == 4 * 2 * 4
