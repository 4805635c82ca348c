"""Where training computes: the processor, or a CUDA device, one a process. Networks lie there for the time of a pass.

Everything else (tracing, calibration, integers) happens on the processor, where networks go back when a pass is over.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from qkd.errors import RecipeError
from qkd.recipe import TrainSpec

CPU = torch.device("cpu")
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def training_device(settings: TrainSpec) -> torch.device:
    """What `train.device` chooses on this machine; under torchrun every process has a CUDA device of its own."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise RecipeError(
            "train.device is 'cuda', but torch finds no CUDA device here; use 'auto' or 'cpu', or install a torch "
            "that is built for CUDA"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def make_deterministic(device: torch.device) -> None:
    """Choose algorithms that repeat bit for bit; on the processor all are, given the same number of threads."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch's notes on reproducibility ask
        torch.use_deterministic_algorithms(True, warn_only=True)


def precision(settings: TrainSpec, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where the recipe asks for it and the device multiplies it faster than float32."""
    if not settings.mixed_precision:
        return nullcontext()
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = any(has for name, has in torch.cpu.get_capabilities().items() if name in BFLOAT16_INSTRUCTIONS)
    return torch.autocast(device.type, torch.bfloat16) if able else nullcontext()
