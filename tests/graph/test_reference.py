"""The reference against an independent implementation: loops over single elements in Python integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.random_graphs import ACTIVATION_RANGES, WEIGHT_RANGES, RandomGraph, random_inputs, residual_graph
from qkd.graph.fixed_point import Requantize
from qkd.graph.graph import Conv2d, DepthwiseConv2d
from qkd.graph.reference import run


def one_output(acc: int, rq: Requantize, channel: int) -> int:
    product = (acc << rq.pre_shift) * rq.multiplier[channel] + (rq.offset[channel] << 32)
    return max(rq.qmin, min(rq.qmax, product >> (32 + rq.shift)))


@given(
    st.integers(0, 999), st.sampled_from(sorted(WEIGHT_RANGES)), st.sampled_from(sorted(ACTIVATION_RANGES)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 2)] * 4), st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_convolution_equals_loops_over_python_integers(
    seed: int, weight: str, activation: str, kernel: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int, int, int], depthwise: bool, extreme: bool,
) -> None:  # fmt: skip
    g = RandomGraph(seed, (5, 4, 3), activation)
    build = g.depthwise if depthwise else lambda source, kernel, **options: g.conv(source, 4, kernel, **options)
    y = build(g.input, kernel, stride=stride, padding=padding, weight=weight, activation="u8", extreme=extreme)
    graph = g.build(y)
    op = graph.ops[0]
    assert isinstance(op, Conv2d | DepthwiseConv2d)
    x = random_inputs(graph, 1, seed)[0].astype(int)
    w, zero = graph.values[op.weight].codes, graph.values[graph.inputs[0]].qparams.zero_point
    got = run(graph, x[None].astype(np.int8))[y][0]
    for i, j, c in np.ndindex(*got.shape):
        acc = 0
        for di, dj, k in np.ndindex(*w.shape[1:]):
            row, column = i * stride[0] + di - padding[0], j * stride[1] + dj - padding[2]
            inside = 0 <= row < x.shape[0] and 0 <= column < x.shape[1]
            code = int(x[row, column, c if depthwise else k]) if inside else zero
            acc += code * int(w[c, di, dj, k])
        assert got[i, j, c] == one_output(acc, op.epilogue, c)


def test_every_operator_runs_and_keeps_its_code_range() -> None:
    graph = residual_graph()
    for name, codes in run(graph, random_inputs(graph, 20)).items():
        value = graph.values[name]
        assert codes.shape == (20, *value.shape[1:])
        assert value.qmin <= codes.min() <= codes.max() <= value.qmax


def test_a_wrong_input_shape_is_refused_with_the_right_one() -> None:
    with pytest.raises(ValueError, match=r"takes int8 of shape \(N, \*\(9, 7, 3\)\)"):
        run(residual_graph(), np.zeros((1, 3, 3, 3), np.int8))


def test_the_hash_covers_weights_but_not_the_memory_plan() -> None:
    graph = residual_graph(seed=1)
    assert graph.sha256() == residual_graph(seed=1).sha256() != residual_graph(seed=2).sha256()
    assert graph.with_plan({}, {}, 64).sha256() == graph.sha256()
