"""Layers whose weights are looked up in a table."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.random_graphs import RandomGraph
from qkd.graph.graph import QuantGraph


def layers(of_channel: bool = True, count: int = 4, channels: int = 12) -> QuantGraph:
    """A convolution, a depthwise, a pointwise one and a matrix product; 10 and 12 are no whole tiles and vectors."""
    g = RandomGraph(0, (6, 6, channels))
    x = g.conv(g.input, channels + 8, (3, 3), padding=(1, 1, 1, 1), weight="8")
    x = g.depthwise(x, (3, 3), weight="8")
    x = g.conv(x, 10, (1, 1), weight="8", activation="s8")
    y = g.fully_connected(g.flatten(x), 10, "8", "s8")
    return with_codebooks(g.build(y), of_channel, count)


def codebook(rows: tuple[int, ...], count: int) -> NDArray[np.int8]:
    return np.random.default_rng(1).integers(-127, 128, (*rows, count)).astype(np.int8)


def with_codebooks(graph: QuantGraph, of_channel: bool, count: int) -> QuantGraph:
    """Random indices for every weight."""
    values = dict(graph.values)
    for name, value in graph.values.items():
        if value.data is not None:
            levels = codebook((value.shape[0],) if of_channel else (), count)
            indices = np.random.default_rng(0).integers(0, count, value.shape).astype(np.int8)
            values[name] = replace(value, qmin=-127, qmax=127, data=indices, codebook=levels)
    return replace(graph, values=values)
