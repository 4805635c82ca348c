"""Layers with a codebook: indices stay packed in flash, ordinary kernels compute them, on every device, tolerance 0."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.lowering import kernels_of
from benchmarks.random_graphs import RandomGraph
from qkd.graph.graph import Conv2d, Conv2dAdd, DepthwiseConv2d, FullyConnected, Op, Value
from qkd.graph.steps import steps
from qkd.passes.graph.fuse_adds import FuseAdds
from qkd.targets import load_target, target_names
from qkd.targets.kernels import choose_kernels
from qkd.targets.kernels.codebook_order import FILLED_UP, Order, order_of
from tests.support.codebooks import layers, with_codebooks
from tests.support.device_checks import assert_device_equals_reference


@pytest.mark.device
@pytest.mark.parametrize(("of_channel", "count"), [(True, 4), (False, 4), (True, 11), (False, 20)])
@pytest.mark.parametrize("device", target_names())
def test_a_device_computes_what_the_reference_computes(device: str, of_channel: bool, count: int) -> None:
    """Also where looking up as one multiplies is estimated to be faster."""
    graph = layers(of_channel, count)
    ops = steps(graph)
    offered = [kernels_of(graph, op, load_target(device)) for op in ops]
    chosen = [next(k for k in of if k.variant.startswith("codebook_")) for of in offered]
    assert_device_equals_reference(graph, device, chosen)


@pytest.mark.device
@pytest.mark.parametrize("device", ["cortex_m0plus", "cortex_m4", "cortex_m55"])
def test_a_fused_residual_add_goes_with_it(device: str) -> None:
    g = RandomGraph(0, (6, 6, 16))
    x = g.conv(g.input, 16, (3, 3), padding=(1, 1, 1, 1), weight="8")
    y = g.add(g.conv(x, 16, (3, 3), padding=(1, 1, 1, 1), weight="8"), x, "s8")
    graph = with_codebooks(g.build(g.average_pool(y, (2, 2))), of_channel=True, count=4)
    fused = FuseAdds(frozenset(op.name for op in graph.ops if op.output == y))(graph)
    assert any(isinstance(op, Conv2dAdd) for op in fused.ops)
    kernels = list(choose_kernels(fused, load_target(device)))
    assert [k.variant for k in kernels if k.variant.startswith("codebook_") and k.variant.endswith("+add")]
    assert_device_equals_reference(fused, device, kernels)


@pytest.mark.parametrize("device", [name for name in target_names() if name != "host"])
def test_a_convolution_is_computed_by_the_kernel_that_plain_weights_have(device: str) -> None:
    graph, target = layers(channels=16), load_target(device)
    conv = graph.ops[0]
    assert isinstance(conv, Conv2d)
    weight = graph.values[conv.weight]
    plain = replace(graph, values={**graph.values, weight.name: weight.without_codebook()})
    bytes_alone = [k for k in kernels_of(plain, conv, target) if not k.variant.startswith("winograd")]
    [best] = [kernel for kernel in kernels_of(graph, conv, target) if kernel.variant.startswith("codebook_")]
    assert best.variant == f"codebook_{bytes_alone[0].variant}"
    packed, levels = best.constants[:2]
    assert packed.nbytes * 4 <= weight.elements * 1.5  # a last tile may hold channels twice
    assert levels.shape == (24, 4)


@pytest.mark.parametrize("device", ["cortex_m0plus", "cortex_m4", "cortex_m55", "cortex_a53", "cortex_a76"])
def test_wide_layers_have_such_kernels_too(device: str) -> None:
    """Positions are laid out in small digits, so that no sum of them is larger than sums of codes are."""
    g = RandomGraph(0, (8, 8, 64), "u8")
    graph = with_codebooks(g.build(g.conv(g.input, 64, (3, 3), padding=(1, 1, 1, 1), weight="8")), True, 16)
    [best, *_] = kernels_of(graph, graph.ops[0], load_target(device))
    assert best.variant.startswith("codebook_")
    assert best.variant != "codebook_generic"
    assert best.constants[0].nbytes == 64 * 9 * 64 / 2


def test_what_is_filled_up_needs_no_level_where_there_is_a_zero() -> None:
    g = RandomGraph(0, (8, 8, 16))
    graph = with_codebooks(g.build(g.depthwise(g.input, (3, 3), weight="8")), True, 4)
    op, target = graph.ops[0], load_target("cortex_m55")

    def indexed(levels: NDArray[np.int8]) -> int:
        values = {n: v if v.codebook is None else replace(v, codebook=levels) for n, v in graph.values.items()}
        [kernel] = [k for k in kernels_of(replace(graph, values=values), op, target) if k.variant[:8] == "codebook"]
        return kernel.constants[0].nbytes

    without = np.full((16, 4), [-127, -5, 5, 127], np.int8)
    assert 2 * indexed(np.where(without == 5, 0, without).astype(np.int8)) == indexed(without)


@pytest.mark.parametrize(
    ("kind", "rows", "count", "bits"),
    [(Conv2d, (), 4, 2), (Conv2d, (6,), 16, 4), (DepthwiseConv2d, (6,), 3, 2), (FullyConnected, (), 11, 4),
     (FullyConnected, (6,), 20, 8)],
)  # fmt: skip
def test_looking_up_as_one_multiplies_needs_no_scratch_for_weights(
    kind: type[Op], rows: tuple[int, ...], count: int, bits: int
) -> None:
    g = RandomGraph(0, (4, 5, 6))
    y = g.conv(g.input, 6, (3, 3), weight="8") if kind is Conv2d else g.input
    y = g.depthwise(g.input, (3, 3), weight="8") if kind is DepthwiseConv2d else y
    y = g.fully_connected(g.flatten(g.input), 6, "8", "s8") if kind is FullyConnected else y
    graph = with_codebooks(g.build(y), bool(rows), count)
    op = graph.ops[-1]
    assert isinstance(op, kind)
    [weight] = [value for value in graph.values.values() if value.codebook is not None]
    [kernel] = [k for k in kernels_of(graph, op, load_target("host")) if k.variant == "generic_lookup"]
    assert kernel.constants[0].nbytes == 6 * -(-(weight.elements // 6) * bits // 8)
    assert kernel.scratch_bytes <= 9 * 6  # a patch
    assert_device_equals_reference(graph, "host", [kernel])


def rows_of_a_weight() -> Value:
    g = RandomGraph(0, (4, 4, 12))
    g.conv(g.input, 18, (3, 3), weight="8")
    return next(value for value in g.values.values() if value.data is not None)


def test_an_order_is_found_from_where_bytes_come_from() -> None:
    weight = rows_of_a_weight()
    of = np.arange(weight.elements).reshape(weight.shape[0], -1)
    firsts = [0, 8, 10]  # the last of three tiles of eight channels overlaps
    tiles = np.stack([of[first : first + 8] for first in firsts]).reshape(3, 8, -1, 4).transpose(0, 2, 1, 3)
    order = order_of(tiles.reshape(-1), weight, 18)
    assert order == Order(tiles=3, repeats=27, channels=8, run=4, count=18)
    assert np.array_equal(order.rows(), tiles.reshape(-1) // of.shape[1])
    assert order_of(of.reshape(-1), weight, 18) == Order(1, 1, 18, 108, 18)
    filled = np.pad(of, ((0, 0), (0, 4)), constant_values=FILLED_UP)
    assert order_of(filled.reshape(-1), weight, 18) == Order(1, 1, 18, 112, 18)
    tiles = np.pad(of, ((0, 2), (0, 0)), constant_values=FILLED_UP).reshape(5, 4, -1, 4).transpose(0, 2, 1, 3)
    assert order_of(tiles.reshape(-1), weight, 18) == Order(5, 27, 4, 4, 18, overlaps=False)


def test_what_is_no_order_of_tiles_is_not_offered() -> None:
    weight = rows_of_a_weight()
    shuffled = np.random.default_rng(0).permutation(weight.elements)
    assert order_of(shuffled, weight, 18) is None
    assert order_of(shuffled, weight, 1) == Order(1, 1, 1, weight.elements, 1)  # one table for all asks for none
