"""Pixel → code → real value: the one definition for data, student and device.

A code is pixel - 128, its step 1/64 and its zero point 0, so that a network sees (pixel - 128) / 64 and every input is
exactly a code of the integer graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

PIXEL_OF_ZERO = 128
"""The pixel whose code is 0."""

INPUT_STEP = 2.0**-6
"""Real value of one code."""


def pixel_codes(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Pixels as the device takes them, of the same shape."""
    return (pixels.astype(np.int16) - PIXEL_OF_ZERO).astype(np.int8)


def image_batch(pixels: Tensor | NDArray[np.uint8]) -> Tensor:
    """Bytes (N, H, W, C) as the float batch (N, C, H, W) that every network of qkd takes, channels last."""
    import torch  # here, so that data can be loaded without it

    return (torch.as_tensor(pixels).float() - PIXEL_OF_ZERO).mul_(INPUT_STEP).permute(0, 3, 1, 2)
