"""In which order a kernel's constant holds the rows of a weight: tiles of channels, runs of bytes of each in turn."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Value
from qkd.tir.tir import Expr, let, minimum

FILLED_UP = -1
"""Source of a byte that is no weight."""


@dataclass(frozen=True)
class Order:
    """Bytes [tile][repeat][channel][run] of `count` rows.

    A last tile that would go beyond them overlaps the one before, or else is filled up.
    """

    tiles: int
    repeats: int
    channels: int
    run: int
    count: int
    overlaps: bool = True

    def bytes_written(self, run: int) -> int:
        """How far writing reaches that takes `run` bytes for every run; each overwrites what the last had too much."""
        return (self.tiles * self.repeats * self.channels - 1) * self.run + run

    def row(self, tile: Expr, channel: Expr) -> Expr:
        """The row of a tile's channel; what is filled up counts to the last one."""
        first = tile * self.channels
        if self.overlaps:
            return let(minimum(first, self.count - self.channels) + channel)
        return let(minimum(first + channel, self.count - 1))

    def rows(self) -> NDArray[np.int64]:
        """The same for each byte."""
        firsts, channels = np.arange(self.tiles)[:, None] * self.channels, np.arange(self.channels)
        rows = np.minimum(firsts, self.count - self.channels) + channels
        if not self.overlaps:
            rows = np.minimum(firsts + channels, self.count - 1)
        shape = (self.tiles, self.repeats, self.channels, self.run)
        return np.broadcast_to(rows[:, None, :, None], shape).reshape(-1)


def order_of(source: NDArray[np.int64], weight: Value, count: int) -> Order | None:
    """The order of bytes that come from the weights at `source`; None where it is no such order.

    Parameters
    ----------
    source : int64 array of shape (n,)
        Positions in the flat weight, or FILLED_UP.
    weight : Value
        Shape (O, ...).
    count : int
        O, or 1 where all channels share one row.
    """
    if count == 1:
        return Order(1, 1, 1, len(source), 1)
    real = source != FILLED_UP
    places = np.maximum.accumulate(np.where(real, np.arange(len(source)), 0))
    rows = source[places] * count // weight.elements
    run = _first_change(rows)
    heads = rows[::run]
    again = np.flatnonzero(heads[1:] == heads[0])
    channels = int(again[0]) + 1 if len(again) else len(heads)
    firsts = heads[::channels]
    repeats = _first_change(firsts)
    order = Order(-(-len(firsts) // repeats), repeats, channels, run, count)
    for form in (order, replace(order, overlaps=False)):
        found = form.rows()
        if len(found) == len(rows) and np.array_equal(found[real], rows[real]):
            return form
    return None


def _first_change(values: NDArray[np.int64]) -> int:
    """How many times the first value stands before another."""
    others = np.flatnonzero(values != values[0])
    return int(others[0]) if len(others) else len(values)
