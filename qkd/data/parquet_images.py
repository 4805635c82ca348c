"""Image folders in Hugging Face's parquet layout: `img` {bytes, path} and `label`, in train-*.parquet, test-*.parquet.

Decoding takes seconds, so the pixels are kept in one .npz under the hash of the files they came from.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from qkd.base.files import write_atomic
from qkd.errors import RecipeError

HOW_TO_GET = (
    "put a folder there with train-*.parquet and test-*.parquet, columns img {bytes, path} and label, as the Hugging "
    "Face data set uoft-cs/cifar10 has them under plain_text/, or set data.path to where it is"
)
COLUMNS = ("img", "label")


@dataclass(frozen=True, eq=False)
class Decoded:
    """One split as pixels (N, H, W, C) and classes (N,); `lossy` where images were stored as JPEG."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    lossy: bool


def load_folder(folder: Path, cache_folder: Path) -> dict[str, Decoded]:
    """The splits "train" and "test" of a folder, decoded now or taken from the cache; RecipeError if it cannot."""
    if not folder.is_dir():
        raise RecipeError(f"no data set at {folder}; {HOW_TO_GET}")
    return {split: _load_split(folder, split, cache_folder) for split in ("train", "test")}


def _load_split(folder: Path, split: str, cache_folder: Path) -> Decoded:
    files = sorted(folder.rglob(f"{split}-*.parquet"))
    if not files:
        raise RecipeError(f"{folder} holds no {split}-*.parquet; {HOW_TO_GET}")
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    cache = cache_folder / f"{split}-{digest.hexdigest()[:16]}.npz"
    known = _read_cache(cache)
    if known is not None:
        return known
    parts = [_decode(file) for file in files]
    shapes = {part.images.shape[1:] for part in parts}
    if len(shapes) != 1:
        raise RecipeError(f"the files of {folder} hold images of different shapes {sorted(shapes)}; one is allowed")
    images = np.concatenate([part.images for part in parts])
    whole = Decoded(images, np.concatenate([part.labels for part in parts]), any(part.lossy for part in parts))
    buffer = io.BytesIO()
    np.savez(buffer, images=whole.images, labels=whole.labels, lossy=np.array(whole.lossy))
    write_atomic(cache, buffer.getvalue())
    return whole


def _read_cache(path: Path) -> Decoded | None:
    try:
        with np.load(path) as arrays:
            return Decoded(arrays["images"], arrays["labels"], bool(arrays["lossy"]))
    except (FileNotFoundError, BadZipFile, KeyError, ValueError):
        return None  # never decoded, or written by something else: decode again


def _decode(path: Path) -> Decoded:
    rows = _read_rows(path)
    images: list[NDArray[np.uint8]] = []
    lossy = False
    for index, row in enumerate(rows["img"]):
        pixels, is_jpeg = _decode_image(row, f"{path} row {index}")
        if images and pixels.shape != images[0].shape:
            raise RecipeError(
                f"{path} row {index} is {pixels.shape}, earlier ones {images[0].shape}; one size is allowed"
            )
        images.append(pixels)
        lossy |= is_jpeg
    return Decoded(np.stack(images), np.array(rows["label"], np.int64), lossy)


def _read_rows(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RecipeError(
            "parquet data sets need pyarrow and pillow; install them with: pip install 'qkd[train]'"
        ) from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise RecipeError(f"{path} cannot be read, it may be truncated: {error}; {HOW_TO_GET}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise RecipeError(f"{path} has columns {table.column_names}, without {missing}; {HOW_TO_GET}")
    if table.num_rows == 0:
        raise RecipeError(f"{path} is empty: it holds no rows; {HOW_TO_GET}")
    rows: dict[str, list[Any]] = table.select(list(COLUMNS)).to_pydict()
    if any(not isinstance(label, int) for label in rows["label"]):
        raise RecipeError(f"{path} has labels that are not whole numbers; classes must be numbered 0, 1, …")
    return rows


def _decode_image(row: Any, where: str) -> tuple[NDArray[np.uint8], bool]:
    from PIL import Image, UnidentifiedImageError

    content = row.get("bytes") if isinstance(row, dict) else None
    if not content:
        raise RecipeError(f"{where} holds no image bytes; {HOW_TO_GET}")
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB")), image.format == "JPEG"
    except (UnidentifiedImageError, OSError) as error:
        raise RecipeError(f"{where} is not an image that Pillow can decode: {error}") from error
