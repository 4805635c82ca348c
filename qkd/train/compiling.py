"""Compiling a quantized student's step."""

import os
import shutil

import torch

from qkd.train.job import Job, Loss
from qkd.train.state import TrainState

FUSION = {"realize_reads_threshold": 16, "realize_opcount_threshold": 80}
"""Inductor's limits of what it computes again rather than keeps: by its own, a backward pass writes every quantizer's
x / step to memory and reads it twice, which doubles what quantizing costs."""


def compiled(job: Job, state: TrainState) -> Loss:
    """The job's loss, compiled where it has quantizers: a float network's step became no faster (ResNet-8)."""
    if not state.settings.compile or "quantized" not in job.learners:
        return job.loss
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        state.session.reporter.say("train.compile needs a C++ compiler (g++); training goes on without, more slowly")
        return job.loss
    return torch.compile(job.loss, dynamic=False, options=dict(FUSION))
