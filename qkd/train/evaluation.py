"""Top-1 of a student in every form it takes, from float to integers, and how far the forms agree."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qkd.base.progress import Advance, Reporter, Silent
from qkd.data.datasets import Split
from qkd.data.pixels import image_batch
from qkd.graph.graph import QuantGraph
from qkd.graph.reference import run_in_batches
from qkd.student.student import QuantStudent
from qkd.train.accelerator import CPU

BATCH = 250
SILENT = Silent()


@dataclass(frozen=True)
class Scores:
    """Percentages over one split; agreement is the share of images for which two forms choose the same class."""

    top1_float: float | None
    """The float student that quantization started from; None where that one was never trained."""
    top1_torch: float
    """The quantized student as it was trained, fake-quantized."""
    top1_exact: float
    """The quantized student in exact mode: integer codes in torch."""
    top1_integer: float
    """The integer graph, run by the reference."""
    agreement: float
    """Of the fake-quantized student with the integer graph."""
    agreement_exact: float
    """Of exact mode with the integer graph; anything but 100 is a defect."""


def _quietly(amount: int = 1, note: str = "") -> None:
    """Report no progress."""


@torch.no_grad()
def classes_of(network: nn.Module, images: NDArray[np.uint8], advance: Advance = _quietly) -> NDArray[np.int64]:
    """The class a network chooses for each image (N, H, W, C); it is left in the mode it was in."""
    training = network.training
    network.eval()
    parts, device = [], next((p.device for p in network.parameters()), CPU)
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        parts.append(network(image_batch(batch).to(device)).float().cpu().numpy().argmax(axis=1))
        advance(len(batch))
    network.train(training)
    return np.concatenate(parts)


def top1(network: nn.Module, split: Split) -> float:
    """Percentage of a split's images whose class the network chooses."""
    return _percent(classes_of(network, split.images), split.labels)


def evaluate(
    student: nn.Module | None, quantized: QuantStudent, graph: QuantGraph, split: Split, reporter: Reporter = SILENT
) -> Scores:
    """Score the float student, if it was trained, both forms of the quantized one and the frozen graph on one split."""
    with reporter.task(f"{graph.name}: test split, every engine", (3 + (student is not None)) * len(split)) as advance:
        real = None if student is None else classes_of(student, split.images, advance)
        fake = classes_of(quantized, split.images, advance)
        with quantized.running("exact"):
            exact = classes_of(quantized, split.images, advance)
        integer = run_in_batches(graph, split.codes(), BATCH).argmax(axis=1)
        advance(len(split))
    return Scores(
        top1_float=None if real is None else _percent(real, split.labels),
        top1_torch=_percent(fake, split.labels),
        top1_exact=_percent(exact, split.labels),
        top1_integer=_percent(integer, split.labels),
        agreement=_percent(fake, integer),
        agreement_exact=_percent(exact, integer),
    )


def _percent(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    return 100.0 * float((found == wanted).mean())
