"""A network's size as Polino et al. count it; what flash really takes is in the sections of the object files.

    bytes = 4 · N_float + mean Huffman bits · N_quantized / 8 + 8 · buckets

Two floats a bucket; codebooks, activations and code are not counted. Symbols are pooled over all tensors.
"""

import heapq
from collections.abc import Sequence

import numpy as np
import torch

from qkd.student.levels import in_buckets
from qkd.student.student import QuantStudent

FLOAT_BYTES = 4


def mean_huffman_bits(counts: Sequence[int]) -> float:
    """Mean length of a Huffman code for symbols that occur so often; a single symbol takes no bits.

    >>> mean_huffman_bits([4, 2, 1, 1])
    1.75
    """
    heap = [count for count in counts if count]
    total, merged = sum(heap), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        merged += pair  # each merge adds one bit to every symbol below it
        heapq.heappush(heap, pair)
    return merged / total if total else 0.0


@torch.no_grad()
def paper_bytes(student: QuantStudent) -> int:
    """Size of a student whose inner weights lie on levels; everything else counts as float."""
    quantized = student.on_levels()
    symbols = [levels.indices(layer.weight).reshape(-1).numpy() for layer, levels in quantized]
    pooled = np.concatenate(symbols) if symbols else np.zeros(0, np.int64)
    buckets = sum(len(in_buckets(layer.weight, levels.spec.bucket)) for layer, levels in quantized)
    norms = [layer.norm for layer in student.weighted() if layer.norm is not None]
    parts = [*student.weighted(), *norms]
    everything = sum(p.numel() for part in parts for p in (part.weight, part.bias) if p is not None)
    bits = mean_huffman_bits(np.bincount(pooled).tolist())
    return round(FLOAT_BYTES * (everything - len(pooled)) + bits * len(pooled) / 8 + 2 * FLOAT_BYTES * buckets)
