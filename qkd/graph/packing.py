"""Values ⇄ bytes: how low-bit weights lie in flash. Only writers and kernels of packed constants use it."""

import numpy as np
from numpy.typing import NDArray


def pack_rows(values: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """Pack each row into bytes, lowest bits first, two's complement.

    Code i of a row lies at bit `i * bits % 8` of byte `i * bits // 8`; a row's last byte is filled with zeros, so every
    row starts on a byte.

    Parameters
    ----------
    values : int64 array of shape (R, K)
        Codes in [-2**(bits-1), 2**(bits-1)).
    bits : {2, 4, 8}

    Returns
    -------
    uint8 array of shape (R, ceil(K * bits / 8))
    """
    per_byte = 8 // bits
    rows, k = values.shape
    padded = np.zeros((rows, -(-k // per_byte) * per_byte), np.int64)
    padded[:, :k] = values & ((1 << bits) - 1)
    fields = padded.reshape(rows, -1, per_byte) << (bits * np.arange(per_byte))
    return np.asarray(fields.sum(axis=2), np.uint8)


def unpack_rows(packed: NDArray[np.uint8], bits: int, k: int) -> NDArray[np.int64]:
    """Undo `pack_rows` for rows of `k` codes."""
    shifts = bits * np.arange(8 // bits)
    fields = (packed.astype(np.int64)[:, :, None] >> shifts) & ((1 << bits) - 1)
    codes = fields.reshape(packed.shape[0], -1)[:, :k]
    return np.where(codes >= 1 << (bits - 1), codes - (1 << bits), codes)
