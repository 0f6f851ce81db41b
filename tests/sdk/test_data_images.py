"""Images as users have them: IDX pairs of any name, archives, and folders of pictures; and what is refused."""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lepton import data
from lepton.errors import InvalidArgument

GENERATOR = np.random.default_rng(11)
X, Y = GENERATOR.integers(0, 256, (12, 6, 5), dtype=np.uint8), np.arange(12, dtype=np.uint8) % 3


def write_pair(folder: Path, prefix: str, x: NDArray[Any], y: NDArray[Any], *, ending: str = "") -> None:
    for name, array in ((f"{prefix}images-idx3-ubyte", x), (f"{prefix}labels-idx1-ubyte", y)):
        content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        (folder / f"{name}{ending}").write_bytes(gzip.compress(content) if ending else content)


@pytest.mark.parametrize("prefix", ["train-", "mine-", "", "emnist-digits-train-", "t10k-"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_any_one_pair_is_the_data(tmp_path: Path, prefix: str, ending: str) -> None:
    write_pair(tmp_path, prefix, X, Y, ending=ending)
    (tmp_path / "README").write_text("not an image")
    dataset = data.load(str(tmp_path))
    assert np.array_equal(dataset.x[:, 0], X)
    assert np.array_equal(dataset.y, Y)
    assert dataset.x_test is None


@pytest.mark.parametrize(("train", "test"), [("train-", "t10k-"), ("my-train-", "my-test-")])
def test_of_two_pairs_the_one_for_tests_is_the_test_set(tmp_path: Path, train: str, test: str) -> None:
    write_pair(tmp_path, train, X, Y)
    write_pair(tmp_path, test, X[:4], Y[:4], ending=".gz")
    dataset = data.load(str(tmp_path))
    assert len(dataset) == 12
    assert dataset.x_test is not None
    assert np.array_equal(dataset.x_test[:, 0], X[:4])


def test_two_pairs_of_which_none_is_for_tests_are_too_many(tmp_path: Path) -> None:
    write_pair(tmp_path, "a-", X, Y)
    write_pair(tmp_path, "b-", X, Y)
    with pytest.raises(InvalidArgument, match="leave one pair"):
        data.load(str(tmp_path))


def picture(folder: Path, name: str, pixels: NDArray[Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_folders_of_pictures_are_classes_by_name(tmp_path: Path) -> None:
    for index in range(6):
        picture(tmp_path, f"{'cat' if index % 2 else 'dog'}/{index}.png", X[index])
    dataset = data.load(str(tmp_path))
    assert dataset.names == ("cat", "dog")
    assert dataset.x.shape == (6, 1, 6, 5)
    assert np.array_equal(dataset.x[:3, 0], X[1:6:2])
    assert dataset.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.parse(data.to_safetensors(dataset)).facts() == {"names": ["cat", "dog"]}


def test_train_and_test_above_the_classes_are_kept_apart_and_sizes_are_made_equal(tmp_path: Path) -> None:
    colour = np.repeat(X[..., None], 3, axis=3)
    for index in range(6):
        part = "test" if index >= 4 else "train"
        picture(tmp_path, f"{part}/{index % 2}/{index}.jpg", colour[index] if index else np.tile(colour[0], (2, 2, 1)))
    dataset = data.load(str(tmp_path))
    assert dataset.x_test is not None
    assert (dataset.x.shape, dataset.x_test.shape) == ((4, 3, 6, 5), (2, 3, 6, 5))


def test_classes_that_are_numbers_keep_their_order(tmp_path: Path) -> None:
    for name in ("10", "2", "1"):
        picture(tmp_path, f"{name}/a.png", X[0])
    assert data.load(str(tmp_path)).names == ("1", "2", "10")


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    picture(tmp_path, "a/1.png", X[0])
    picture(tmp_path, "b/1.png", X[0])
    (tmp_path / "b" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(InvalidArgument, match="remove it") as caught:
        data.load(str(tmp_path))
    assert caught.value.metadata["file"].endswith("b/2.png")


def test_a_picture_that_would_be_huge_is_not_decoded(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        picture(tmp_path, name, X[0])
    bomb = tmp_path / "b" / "2.png"
    content = bytearray(bomb.read_bytes())
    content[16:24] = struct.pack(">II", 40_000, 40_000)  # 1.6 GB of pixels, says the header
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    bomb.write_bytes(content)
    with pytest.raises(InvalidArgument):
        data.load(str(tmp_path))


def test_an_empty_folder_says_what_it_could_hold(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"idx3-ubyte file, no \.npz archive and no folders"):
        data.load(str(tmp_path))


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("x.npy", b"")
    content = bytearray(path.read_bytes())
    size = content.rfind(b"PK\x01\x02") + 24  # where the directory says how large the member is unpacked
    content[size : size + 4] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(bytes(content))
    with pytest.raises(InvalidArgument):
        data.load(str(path))


def test_pickled_arrays_are_never_unpickled(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "set.npz", x=np.array([Malicious()], dtype=object), y=Y[:1])
    with pytest.raises(InvalidArgument, match=r"numpy\.savez"):
        data.load(str(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_several_ways_of_classifying_survive_the_canonical_file() -> None:
    dataset = data.Dataset(x=X[:, None], y=np.stack([Y, 1 - Y % 2], 1).astype(np.int64))
    assert dataset.tasks == (3, 2)
    assert data.from_safetensors(data.to_safetensors(dataset)).tasks == (3, 2)


def test_a_partition_holds_out_what_split_does_and_is_disjoint() -> None:
    parts = data.partition(100, test_fraction=0.2, validation_fraction=0.1, seed=3)
    assert np.array_equal(parts.test, data.split(100, test_fraction=0.2, seed=3).test)
    assert sorted([*parts.train, *parts.validation, *parts.test]) == list(range(100))
    assert (len(parts.train), len(parts.validation)) == (72, 8)
    given = data.partition(100, test_fraction=0.2, validation_fraction=0.1, seed=3, given_test=30)
    assert given.test.tolist() == list(range(100, 130))
    assert len(given.train) + len(given.validation) == 100
    ordered = data.partition(10, test_fraction=0.2, validation_fraction=0.25, seed=0, is_ordered=True)
    assert (ordered.train.tolist(), ordered.validation.tolist(), ordered.test.tolist()) == (
        [0, 1, 2, 3, 4, 5], [6, 7], [8, 9],
    )  # fmt: skip
