"""Re-estimate batch norm: running statistics that belong to the weights and steps as they are now.

While weights and steps still move, the running averages trail behind; a few forward batches put that right and are
worth tens of points directly after quantization.
"""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from qkd.data.datasets import Split
from qkd.data.pixels import image_batch


@torch.no_grad()
def re_estimate(network: nn.Module, split: Split, batches: int, batch_size: int) -> None:
    """Replace every batch norm's running statistics by the plain mean over the split's first `batches` batches."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    training, momenta = network.training, [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative mean
        norm.train()
    full = max(1, len(split) // batch_size)  # a last batch of one image would have no variance
    for start in range(0, min(batches, full) * batch_size, batch_size):
        network(image_batch(split.images[start : start + batch_size]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(training)
