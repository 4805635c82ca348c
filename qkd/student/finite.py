"""Whether weights are numbers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    return next((name for name, tensor in weights.items() if not bool(tensor.isfinite().all())), None)
