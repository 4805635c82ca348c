"""Data-parallel training under `torchrun`: every rank computes a part of each batch, all ranks take the same steps.

    torchrun --nproc-per-node 2 -m qkd run recipe.toml

Gradients and batch statistics are those of the whole batch, so that the weights equal those of one process up to the
order of float sums, except with dropout, where all ranks draw the same masks. Checkpoints and logs are written by the
first rank only. Without torchrun nothing here acts.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qkd.errors import RecipeError
from qkd.train.accelerator import CPU

PATIENCE = timedelta(days=7)
"""How long a rank waits for the others: the first one proves a format while the rest wait for the next to begin.
A rank that fails is no reason to wait: torchrun ends the others, and gloo notices a closed connection."""


def start(device: torch.device = CPU) -> None:
    """Join the other ranks, if torchrun started this process: over gloo in main memory, nccl between CUDA devices."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        backends = "gloo" if device == CPU else "cpu:gloo,cuda:nccl"  # the loss's mean stays in main memory
        if device != CPU:
            torch.cuda.set_device(device)  # which barriers use
        dist.init_process_group(backends, timeout=PATIENCE)


def threads_for_each() -> int:
    """The cores of this machine, shared among the processes that torchrun started on it."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Let the first rank do something alone, which the others then find done: filling a cache."""
    if rank() > 0:
        wait_for_all()
    yield
    if rank() == 0:
        wait_for_all()


def my_part(batch_size: int) -> slice:
    """The images of a batch that this rank computes."""
    ranks = world_size()
    if batch_size % ranks:
        raise RecipeError(
            f"a batch of {batch_size} images cannot be shared by {ranks} processes; use a multiple of {ranks} as "
            "train.batch_size or another --nproc-per-node"
        )
    share = batch_size // ranks
    return slice(rank() * share, (rank() + 1) * share)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks: that of the whole batch, as all parts have one size."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average(value: float) -> float:
    """The mean of a number over the ranks."""
    if world_size() == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / world_size()


@contextmanager
def shared_statistics(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Let batch norms in train mode normalise by the whole batch's statistics, not those of this rank's part.

    torch's own SyncBatchNorm refuses tensors in main memory.
    """
    norms = [m for network in networks for m in network.modules() if isinstance(m, _BatchNorm)]
    if world_size() == 1 or not norms:
        yield
        return
    for norm in norms:
        norm.forward = _SharedForward(norm)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _SharedForward:
    """The forward of a batch norm over all ranks."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return type(norm).forward(norm, x)
        wide = x if x.dtype == torch.float64 else x.float()  # as torch's own: sums of bfloat16 would lose most digits
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = x.numel() // x.shape[1] * world_size()
        mean = _sum_over_ranks(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _sum_over_ranks(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        y = centred * torch.rsqrt(variance + norm.eps).view(shape)
        return (y if not norm.affine else y * norm.weight.view(shape) + norm.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        norm = self.norm
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            return
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(variance, share)


class _SumOverRanks(torch.autograd.Function):
    """Sum of a tensor over the ranks; each rank's share of the gradient is summed on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _sum_over_ranks(x: Tensor) -> Tensor:
    summed: Tensor = _SumOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return summed
