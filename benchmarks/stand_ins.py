"""Trained weights for DS-CNN and the autoencoder, whose own data sets (speech, machine noise) are not at hand.

`python -m benchmarks.stand_ins CIFAR_FOLDER` trains both on the luminance of CIFAR-10's images, resampled to the
networks' input shapes: DS-CNN to name the class, the autoencoder to reproduce its input. The tasks stand in for MLPerf
Tiny's and their scores mean nothing; what counts is that the weights were trained and frozen as a user's are, so that
proofs, kernel choices and counts see real distributions. Writes OUT/<network>/<bits>.safetensors.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.functional import mse_loss

from qkd.bits import Bits
from qkd.data.datasets import Dataset, Split, load_data
from qkd.data.pixels import image_batch
from qkd.graph.graph import QuantGraph
from qkd.graph.graph_file import save_graph
from qkd.passes import build_train_passes
from qkd.pipeline import run_passes
from qkd.recipe import DataSpec, TrainSpec
from qkd.student.freeze import freeze
from qkd.student.models import autoencoder, ds_cnn
from qkd.student.student import calibrate, prepare
from qkd.train.optimisation import one_cycle
from qkd.train.state import TrainState, derived_seed

FORMATS = ("W8A8", "W4A8", "ternary-A8")
SPECTROGRAM, FRAMES = (49, 10), (20, 32)
"""Input shapes: DS-CNN's, and 640 values for the autoencoder."""
WORDS = 12
TRAIN = TrainSpec(batch_size=128, weight_decay=1e-4, threads=1)
PASSES = (
    {"name": "pretrain", "network": "student", "epochs": 3, "learning_rate": 0.2},
    {"name": "quantize"},
    {"name": "qat", "epochs": 1},
    {"name": "re_estimate_batch_norm"},
)
STEPS, QUANTIZED_STEPS, BATCH = 2000, 500, 128


def main() -> None:
    """Train and freeze both networks in every format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/stand_ins"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = DataSpec(name="cifar10", path=str(options.cifar.resolve()), validation=5000)
    data = load_data(spec, options.out / "data")
    grey = np.concatenate([luminance(data.train.images, FRAMES), luminance(data.test.images, FRAMES)])
    for bits in map(Bits.parse, FORMATS):
        for graph in (trained_ds_cnn(data, bits), trained_autoencoder(grey, bits)):
            path = options.out / graph.name / f"{bits}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_graph(graph, path)
            print(path, flush=True)


def luminance(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Images (N, H, W, 3) as (N, *size, 1), resampled bilinearly."""
    resampled = (Image.fromarray(image).convert("L").resize(size[::-1], Image.Resampling.BILINEAR) for image in images)
    return np.stack([np.asarray(image) for image in resampled])[..., None]


def trained_ds_cnn(data: Dataset, bits: Bits) -> QuantGraph:
    """DS-CNN trained by qkd's passes to name what a narrow grey picture shows."""
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    small = {name: Split(luminance(split.images, SPECTROGRAM), split.labels) for name, split in splits.items()}
    data = replace(data, **small, classes=WORDS)
    torch.manual_seed(derived_seed("ds_cnn"))
    student = ds_cnn(WORDS, data.input_shape)
    state = TrainState(data, TRAIN, bits, nn.Identity(), student)
    state = run_passes(build_train_passes(PASSES), state)
    print(f"ds_cnn {bits}: {state.passes[-1].validation_top1}", flush=True)
    return freeze(state.student_to_train(), "ds_cnn")


def trained_autoencoder(images: NDArray[np.uint8], bits: Bits) -> QuantGraph:
    """The autoencoder trained on the squared error, in float and then quantized: qkd's own passes train classifiers."""
    torch.manual_seed(derived_seed("autoencoder"))
    shape = (*FRAMES, 1)
    network = autoencoder(FRAMES[0] * FRAMES[1], shape)
    reproduce(network, images, STEPS, 0.05)
    student = prepare(network, bits, shape)
    calibrate(student, image_batch(images[:512]))
    print(f"autoencoder {bits}: {reproduce(student, images, QUANTIZED_STEPS, 0.005)}", flush=True)
    return freeze(student.eval(), "autoencoder")


def reproduce(network: nn.Module, images: NDArray[np.uint8], steps: int, rate: float) -> float:
    """Train a network to give back its input; returns the last batch's mean squared error."""
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, nesterov=True)
    generator = np.random.default_rng(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * one_cycle(step / steps, 0.1)
        x = image_batch(images[generator.integers(0, len(images), BATCH)])
        loss = mse_loss(network(x), x.flatten(1))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float(loss.detach())


if __name__ == "__main__":
    main()
