"""Data sets as bytes in memory: scikit-learn's digits, and any folder of image parquet files in Hugging Face's layout.

Pixels stay uint8 NHWC; `qkd.data.pixels` says what a network and a device see of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qkd.data.parquet_images import HOW_TO_GET, load_folder
from qkd.data.pixels import pixel_codes
from qkd.errors import RecipeError
from qkd.recipe import DataSpec

SPLIT_SEED = 1234  # the held-out images are the same ones for every run
DIGITS_TEST = 400  # as in reference measurements: 1,797 = train + validation + 400


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, H, W, C) and their classes (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> "Split":
        """The images at `index`, in that order."""
        return Split(np.ascontiguousarray(self.images[index]), self.labels[index])

    def codes(self) -> NDArray[np.int8]:
        """The images as input codes of the integer graph."""
        return pixel_codes(self.images)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a run trains on, chooses by and reports on, and how training images are varied."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    crop_padding: int
    """Pixels of reflected border from which training images are cropped at random."""
    flip: bool
    """Whether training images are mirrored left to right at random."""
    note: str = ""
    """What a reader of scores must know."""

    @property
    def augmented(self) -> bool:
        """Whether a training image looks different from epoch to epoch."""
        return self.crop_padding > 0 or self.flip

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def load_data(spec: DataSpec, cache_folder: Path) -> Dataset:
    """Load the data set a recipe names, or raise RecipeError with what is wrong and how to get it.

    Parameters
    ----------
    spec : DataSpec
    cache_folder : Path
        Where decoded images are kept, under the hash of the files they come from.
    """
    pool, test, note = _digits() if spec.name == "digits" else _parquet(spec, cache_folder)
    classes = int(pool.labels.max()) + 1
    _check_classes(spec, pool, test, classes)
    if spec.validation >= len(pool):
        raise RecipeError(f"data.validation is {spec.validation}; {spec.name} has {len(pool)} training images in all")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(pool))
    train, validation = pool.take(order[spec.validation :]), pool.take(order[: spec.validation])
    if spec.crop_padding >= min(pool.images.shape[1:3]):
        raise RecipeError(f"data.crop_padding is {spec.crop_padding}; images are only {pool.images.shape[1:3]}")
    return Dataset(spec.name, train, validation, test, classes, spec.crop_padding, spec.flip, note)


def _digits() -> tuple[Split, Split, str]:
    """All 1,797 digits as bytes (pixel values 0..16 times 15), the last 400 of a fixed order for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise RecipeError("the digits are part of scikit-learn; install it with: pip install 'qkd[train]'") from None
    bunch = load_digits()
    everything = Split((bunch.images * 15).astype(np.uint8)[..., None], bunch.target.astype(np.int64))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(everything))
    pool, test = everything.take(order[:-DIGITS_TEST]), everything.take(order[-DIGITS_TEST:])
    return pool, test, f"scikit-learn's bundled 8x8 digits, {DIGITS_TEST} of 1,797 held out for the test"


def _parquet(spec: DataSpec, cache_folder: Path) -> tuple[Split, Split, str]:
    if spec.path is None:
        raise RecipeError(f"data.path is not set; for {spec.name!r}, {HOW_TO_GET}")
    splits = load_folder(Path(spec.path), cache_folder)
    lossy = any(split.lossy for split in splits.values())
    note = "images stored as JPEG: scores do not compare with published ones" if lossy else ""
    pool, test = (Split(splits[name].images, splits[name].labels) for name in ("train", "test"))
    return pool, test, note


def _check_classes(spec: DataSpec, pool: Split, test: Split, classes: int) -> None:
    missing = sorted(set(range(classes)) - set(pool.labels.tolist()))
    if missing:
        raise RecipeError(f"{spec.name} has no training image of classes {missing}; labels must be 0..{classes - 1}")
    if int(test.labels.max()) >= classes or int(min(test.labels.min(), pool.labels.min())) < 0:
        raise RecipeError(
            f"{spec.name} has test labels {int(test.labels.min())}..{int(test.labels.max())}, but training labels "
            f"0..{classes - 1}: both splits must have the same classes"
        )
    if spec.name == "cifar10" and classes != 10:
        raise RecipeError(
            f"cifar10 has 10 classes; {spec.path} has {classes}: use data.name = 'parquet' for other sets"
        )
    if pool.images.shape[1:] != test.images.shape[1:]:
        raise RecipeError(f"training images are {pool.images.shape[1:]}, test images {test.images.shape[1:]}")
