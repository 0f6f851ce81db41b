"""Datasets: every source becomes the canonical form, and what cannot says which file and what to do."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lepton import data
from lepton.errors import InvalidArgument, NotFound

GENERATOR = np.random.default_rng(7)
IMAGES = GENERATOR.integers(0, 256, (20, 6, 5), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 3, 20, dtype=np.uint8)


def idx_bytes(array: NDArray[Any], kind: int = 0x08) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape) + array.tobytes()


def test_digits_are_1797_images_of_ten_classes() -> None:
    dataset = data.load("digits")
    assert (dataset.x.shape, str(dataset.x.dtype), dataset.classes) == ((1797, 1, 8, 8), "uint8", 10)
    assert dataset.x.max() == 16


@pytest.mark.parametrize("is_zipped", [False, True])
def test_idx_files_are_read_and_the_labels_found_beside_the_images(tmp_path: Path, is_zipped: bool) -> None:
    pack = gzip.compress if is_zipped else bytes
    ending = ".gz" if is_zipped else ""
    images, labels = tmp_path / f"train-images-idx3-ubyte{ending}", tmp_path / f"train-labels-idx1-ubyte{ending}"
    images.write_bytes(pack(idx_bytes(IMAGES)))
    labels.write_bytes(pack(idx_bytes(LABELS)))
    dataset = data.load(str(images))
    assert np.array_equal(dataset.x, IMAGES[:, None])
    assert np.array_equal(dataset.y, LABELS)
    assert np.array_equal(data.load(str(images), str(labels)).y, LABELS)


def test_big_endian_floats_become_native_float32(tmp_path: Path) -> None:
    floats = (IMAGES / 255).astype(">f8")
    (tmp_path / "images").write_bytes(idx_bytes(floats, 0x0E))
    (tmp_path / "labels").write_bytes(idx_bytes(LABELS.astype(">i4"), 0x0C))
    dataset = data.load(str(tmp_path / "images"))
    assert dataset.x.dtype == np.float32
    assert np.allclose(dataset.x[:, 0], IMAGES / 255)


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("data", "target")])
def test_npz_archives_are_read_under_the_usual_names(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays: dict[str, Any] = {names[0]: IMAGES, names[1]: LABELS}
    np.savez(tmp_path / "set.npz", **arrays)
    assert np.array_equal(data.load(str(tmp_path / "set.npz")).x, IMAGES[:, None])


def test_keras_archives_keep_their_test_set_and_channels_last_is_turned(tmp_path: Path) -> None:
    colour = np.repeat(IMAGES[..., None], 3, axis=3)
    parts: dict[str, Any] = {
        "x_train": colour[:15],
        "y_train": LABELS[:15, None],
        "x_test": colour[15:],
        "y_test": LABELS[15:, None],
    }
    np.savez_compressed(tmp_path / "set.npz", **parts)
    dataset = data.load(str(tmp_path / "set.npz"))
    assert dataset.x.shape == (15, 3, 6, 5)
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    assert np.array_equal(np.concatenate([dataset.x, dataset.x_test])[:, 2], IMAGES)
    assert np.array_equal(np.concatenate([dataset.y, dataset.y_test]), LABELS)
    again = data.from_safetensors(data.to_safetensors(dataset))
    assert again.x_test is not None
    assert np.array_equal(again.x_test, dataset.x_test)


def test_the_canonical_form_survives_its_file_and_equal_sets_have_equal_bytes() -> None:
    dataset = data.Dataset(x=IMAGES[:, None], y=LABELS.astype(np.int64))
    content = data.to_safetensors(dataset)
    again = data.from_safetensors(content)
    assert np.array_equal(again.x, dataset.x)
    assert np.array_equal(again.y, dataset.y)
    assert data.to_safetensors(again) == content


def test_a_split_is_seeded_disjoint_and_complete() -> None:
    first, same, other = (data.split(100, test_fraction=0.2, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.test, same.test)
    assert not np.array_equal(first.test, other.test)
    assert sorted([*first.train, *first.test]) == list(range(100))
    assert len(first.test) == 20
    tiny = data.split(2, test_fraction=0.01, seed=0)
    assert len(tiny.train) == len(tiny.test) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        data.load(str(tmp_path / "absent.npz"))
    assert caught.value.metadata["file"].endswith("absent.npz")


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    np.savez(folder / "names.npz", pictures=IMAGES)
    np.savez(folder / "pickled.npz", x=np.array([{}], dtype=object), y=LABELS)
    np.savez(folder / "lengths.npz", x=IMAGES, y=LABELS[:5])
    np.savez(folder / "floats.npz", x=IMAGES, y=LABELS / 3)
    np.savez(folder / "negative.npz", x=IMAGES, y=LABELS.astype(np.int64) - 1)
    np.savez(folder / "nan.npz", x=np.full((20, 6, 5), np.nan), y=LABELS)
    np.savez(folder / "flat.npz", x=IMAGES.reshape(20, 30), y=LABELS)
    (folder / "text.npz").write_text("not an archive")
    (folder / "text-images").write_text("not an IDX file")
    (folder / "text-labels").write_bytes(idx_bytes(LABELS))
    (folder / "short-images").write_bytes(idx_bytes(IMAGES)[:-1])
    (folder / "zip-images").write_bytes(gzip.compress(idx_bytes(IMAGES))[:-9])
    (folder / "pictures").write_bytes(idx_bytes(IMAGES))
    fixes = {
        "names.npz": "save the images as 'x'", "pickled.npz": "numpy.savez", "lengths.npz": "one label per image",
        "floats.npz": "integers", "negative.npz": "number the classes from 0", "nan.npz": "remove or replace",
        "flat.npz": r"\(N, C, H, W\)", "text.npz": "numpy.savez", "text-images": "idx3", "short-images": "download",
        "zip-images": "download", "pictures": "name the label file",
    }  # fmt: skip
    return {name: (folder / name, fix) for name, fix in fixes.items()}


def test_every_unusable_file_is_named_together_with_the_fix(tmp_path: Path) -> None:
    for path, fix in broken_files(tmp_path).values():
        with pytest.raises(InvalidArgument, match=fix) as caught:
            data.load(str(path))
        assert caught.value.metadata["file"] == str(path)


def test_bytes_that_are_no_dataset_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="convert it again"):
        data.from_safetensors(b"\x08\0\0\0\0\0\0\0nonsense")
