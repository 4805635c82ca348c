"""Data sets: fixed splits, decoding and its cache, random views, and how bad folders are worded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from qkd.data.datasets import Dataset, Split, load_data
from qkd.errors import RecipeError
from qkd.recipe import DataSpec
from qkd.train.augment import Views


def write_folder(folder: Path, rows: dict[str, list[tuple[np.ndarray, int]]], form: str = "PNG") -> Path:
    """A parquet folder in Hugging Face's layout."""
    folder.mkdir(exist_ok=True)
    for split, images in rows.items():
        encoded = []
        for pixels, _ in images:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, form)
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        table = pyarrow.table({"img": encoded, "label": [label for _, label in images]})
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def pictures(count: int, classes: int = 2, size: int = 6, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 256, (size, size, 3)).astype(np.uint8), i % classes) for i in range(count)]


def load(folder: Path | None, tmp_path: Path, **changes: Any) -> Dataset:
    spec = DataSpec(**({"name": "parquet", "path": str(folder) if folder else None, "validation": 2} | changes))
    return load_data(spec, tmp_path / "cache")


def test_digits_are_split_the_same_way_every_time(tmp_path: Path) -> None:
    spec = DataSpec(name="digits", validation=300)
    first, second = load_data(spec, tmp_path), load_data(spec, tmp_path)
    assert [len(s) for s in (first.train, first.validation, first.test)] == [1097, 300, 400]
    assert first.input_shape == (8, 8, 1)
    assert np.array_equal(first.test.images, second.test.images)
    everything = np.concatenate([s.images for s in (first.train, first.validation, first.test)])
    assert everything.max() == 240
    assert len(everything) == 1797


def test_pixels_survive_the_folder_and_the_cache(tmp_path: Path) -> None:
    images = {"train": pictures(8), "test": pictures(4, seed=1)}
    folder = write_folder(tmp_path / "set", images)
    decoded, cached = load(folder, tmp_path), load(folder, tmp_path)
    for data in (decoded, cached):
        np.testing.assert_array_equal(data.test.images, np.stack([pixels for pixels, _ in images["test"]]))
        assert data.test.labels.tolist() == [0, 1, 0, 1]
        assert (len(data.train), len(data.validation), data.classes, data.note) == (6, 2, 2, "")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_damaged_cache_is_decoded_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    load(folder, tmp_path)
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"nothing")
    assert len(load(folder, tmp_path).test) == 4


def test_changed_files_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    load(folder, tmp_path)
    write_folder(folder, {"test": pictures(5, seed=7)})
    assert len(load(folder, tmp_path).test) == 5


def test_jpeg_images_carry_a_note_for_readers_of_scores(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)}, form="JPEG")
    assert "do not compare" in load(folder, tmp_path).note


def test_input_codes_are_pixels_minus_128() -> None:
    split = Split(np.array([[[[0], [128], [255]]]], np.uint8), np.zeros(1, np.int64))
    assert split.codes().ravel().tolist() == [-128, 0, 127]


def test_an_absent_folder_is_named_with_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no data set at .*nowhere; put a folder there"):
        load(tmp_path / "nowhere", tmp_path)
    with pytest.raises(RecipeError, match=r"data\.path is not set"):
        load(None, tmp_path)


def test_an_empty_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(RecipeError, match=r"holds no train-\*\.parquet"):
        load(tmp_path / "set", tmp_path)
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    none = pyarrow.table({"img": pyarrow.array([], pyarrow.struct({"bytes": pyarrow.binary()})), "label": []})
    pyarrow.parquet.write_table(none, folder / "test-00000-of-00001.parquet")
    with pytest.raises(RecipeError, match="is empty"):
        load(folder, tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    file = folder / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(RecipeError, match=r"test-00000.*truncated"):
        load(folder, tmp_path)


def test_wrong_columns_are_listed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    pyarrow.parquet.write_table(pyarrow.table({"picture": [1]}), folder / "test-00000-of-00001.parquet")
    with pytest.raises(RecipeError, match=r"columns \['picture'\], without \['img', 'label'\]"):
        load(folder, tmp_path)


@pytest.mark.parametrize(
    ("column", "message"),
    [({"img": [{"bytes": b"text"}], "label": [0]}, "not an image"), ({"img": [None], "label": [0]}, "no image bytes"),
     ({"img": [{"bytes": b"x"}], "label": ["cat"]}, "not whole numbers")],
)  # fmt: skip
def test_rows_that_are_not_labelled_images_are_named(tmp_path: Path, column: dict[str, Any], message: str) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    pyarrow.parquet.write_table(pyarrow.table(column), folder / "test-00000-of-00001.parquet")
    with pytest.raises(RecipeError, match=message):
        load(folder, tmp_path)


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(4) + pictures(1, size=7), "test": pictures(4)})
    with pytest.raises(RecipeError, match=r"row 4 is \(7, 7, 3\)"):
        load(folder, tmp_path)


def test_classes_must_agree_between_splits(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(6, classes=3)})
    with pytest.raises(RecipeError, match=r"test labels 0\.\.2, but training labels 0\.\.1"):
        load(folder, tmp_path)


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    images = [(pixels, 2 * label) for pixels, label in pictures(8)]
    folder = write_folder(tmp_path / "set", {"train": images, "test": pictures(4)})
    with pytest.raises(RecipeError, match=r"no training image of classes \[1\]"):
        load(folder, tmp_path)


def test_cifar10_must_have_ten_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    with pytest.raises(RecipeError, match="cifar10 has 10 classes"):
        load(folder, tmp_path, name="cifar10")


def test_too_large_a_validation_split_or_border_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": pictures(8), "test": pictures(4)})
    with pytest.raises(RecipeError, match=r"data\.validation is 8"):
        load(folder, tmp_path, validation=8)
    with pytest.raises(RecipeError, match=r"data\.crop_padding is 6"):
        load(folder, tmp_path, crop_padding=6)


def small_data(crop_padding: int, flip: bool) -> Dataset:
    images = np.arange(2 * 4 * 5 * 1, dtype=np.uint8).reshape(2, 4, 5, 1)
    split = Split(images, np.array([0, 1]))
    return Dataset("small", split, split, split, 2, crop_padding, flip)


def test_without_variation_a_view_is_the_image() -> None:
    data = small_data(0, flip=False)
    view = Views(data).batch(torch.tensor([1, 0]), torch.Generator().manual_seed(0))
    expected = (torch.from_numpy(data.train.images[[1, 0]]).float() - 128) / 64
    assert torch.equal(view.permute(0, 2, 3, 1), expected)


def test_views_are_crops_of_the_reflected_image_and_its_mirror_image() -> None:
    data = small_data(1, flip=True)
    whole = np.pad(data.train.images[0, :, :, 0], 1, mode="reflect")
    crops = {whole[y : y + 4, x : x + 5][:, ::way].tobytes() for y in range(3) for x in range(3) for way in (1, -1)}
    views = Views(data).batch(torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0))
    seen = {(v[0] * 64 + 128).to(torch.uint8).contiguous().numpy().tobytes() for v in views}
    assert seen == crops


def test_the_generator_decides_the_views() -> None:
    views, index = Views(small_data(1, flip=True)), torch.tensor([0, 1, 0, 1])
    first, second = (views.batch(index, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
