"""Proofs that narrow arithmetic is exact: bounds on sums of products that hold whatever the input."""

import numpy as np
from numpy.typing import NDArray

from qkd.graph.graph import Value


def fits_int32(rows: NDArray[np.int64], entry: Value, scale_bits: int) -> bool:
    """Whether no partial sum of any channel leaves int32 when each product is scaled by `2**scale_bits`.

    The bound is max|q| times the sum of |w|: it holds for every subset of the products, in any order.
    """
    return largest_code(entry) * _largest_sum(rows) << scale_bits < 2**31


def fits_int16(rows: NDArray[np.int64], entry: Value) -> bool:
    """Whether no partial sum of products of any row leaves int16."""
    return largest_code(entry) * _largest_sum(rows) < 2**15


def beyond(rows: NDArray[np.int64], entry: Value, scale_bits: int, limit_bits: int) -> str:
    """By how much a bound of the above is broken, in words."""
    scale, total = f" * 2**{scale_bits}" if scale_bits else "", largest_code(entry) * _largest_sum(rows) << scale_bits
    return f"max|q| * sum|w|{scale} is {total:,}; it must stay below 2**{limit_bits} = {2**limit_bits:,}"


def largest_code(entry: Value) -> int:
    """The largest magnitude of an activation's codes."""
    return max(abs(entry.qmin), abs(entry.qmax))


def _largest_sum(rows: NDArray[np.int64]) -> int:
    return int(np.abs(rows).sum(axis=1).max())
