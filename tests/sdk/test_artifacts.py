"""The artifact store: content addressing, verification on read, atomic writes, and typed errors."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from lepton.artifacts import ArtifactStore, digest_of, parse_digest
from lepton.errors import FailedPrecondition, InvalidArgument, NotFound

DATA = b"weights" * 1000


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    yield ArtifactStore(f"file://{tmp_path}/artifacts" if request.param == "file" else "memory://lepton-artifacts")
    fsspec.filesystem("memory").store.clear()


def stored_path(store: ArtifactStore, digest: str) -> Path:
    hexadecimal = digest.removeprefix("sha256:")
    return Path(store.url.removeprefix("file://")) / "acme" / "sha256" / hexadecimal[:2] / hexadecimal


def test_what_is_put_is_read_back_under_its_digest(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    digest = store.put_bytes("acme", DATA)
    assert digest == digest_of(DATA) == store.put_file("acme", source) == store.put_bytes("acme", DATA)
    assert store.read("acme", digest) == store.open("acme", digest).read() == DATA
    assert store.exists("acme", digest)
    assert store.size("acme", digest) == len(DATA)
    store.fetch_to("acme", digest, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == DATA


def test_another_project_does_not_see_an_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put_bytes("acme", DATA)
    assert not store.exists("rival", digest)
    with pytest.raises(NotFound) as caught:
        store.read("rival", digest)
    assert caught.value.metadata == {"artifact": f"projects/rival/artifacts/{digest.removeprefix('sha256:')}"}
    with pytest.raises(NotFound):
        store.size("rival", digest)
    with pytest.raises(NotFound):
        store.fetch_to("rival", digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_flipped_bit_is_found_on_read_and_nothing_is_handed_out(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    digest = store.put_bytes("acme", DATA)
    path = stored_path(store, digest)
    path.write_bytes(b"W" + DATA[1:])
    for read in (store.read, store.open):
        with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
            read("acme", digest)
    with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
        store.fetch_to("acme", digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_truncated_artifact_is_repaired_by_storing_it_again(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/artifacts")
    digest = store.put_bytes("acme", DATA)
    stored_path(store, digest).write_bytes(DATA[:10])
    assert store.put_bytes("acme", DATA) == digest
    assert store.read("acme", digest) == DATA


def test_a_failed_write_leaves_neither_artifact_nor_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(f"file://{tmp_path}/artifacts")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.put_bytes("acme", DATA)
    assert not store.exists("acme", digest_of(DATA))
    assert [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("project", ["", "..", "a/b", "../../etc", "UPPER", "a\0b"])
def test_a_project_cannot_leave_its_folder(store: ArtifactStore, project: str) -> None:
    with pytest.raises(InvalidArgument):
        store.put_bytes(project, DATA)


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "g" * 64, "md5:" + "0" * 64, "sha256:../" + "0" * 61])
def test_a_malformed_digest_is_refused_by_the_name_of_its_field(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_digest(digest, "dataset")
    assert "dataset" in caught.value.fields
    with pytest.raises(InvalidArgument):
        store.read("acme", digest)
