"""Packed rows: what goes in comes out, and each row starts on a byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkd.graph.packing import pack_rows, unpack_rows


@given(st.sampled_from([2, 4, 8]), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_unpacking_restores_every_code(bits: int, rows: int, k: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, k))
    packed = pack_rows(codes, bits)
    assert packed.shape == (rows, -(-k * bits // 8))
    assert unpack_rows(packed, bits, k).tolist() == codes.tolist()


@pytest.mark.parametrize(("bits", "expected"), [(8, [1, 255]), (4, [0xF1]), (2, [0b1101])])
def test_the_first_code_lies_in_the_lowest_bits(bits: int, expected: list[int]) -> None:
    assert pack_rows(np.array([[1, -1]]), bits).tolist() == [expected]
