"""Encrypted artifacts: they come back, nobody reads them on the disk, and whatever is changed in them is noticed."""

import random
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lepton.artifacts import CHECKPOINTS, ArtifactStore, KeyFile, digest_of
from lepton.artifacts.keys import KeyProvider
from lepton.artifacts.sealing import CHUNK, HEADER, TAG, Cipher, plain_size
from lepton.errors import FailedPrecondition, InvalidArgument, LeptonError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    path = tmp_path_factory.mktemp("keys") / "artifacts.key"
    KeyFile.create(path, "first")
    return KeyFile(path)


def sealed(cipher: Cipher, data: bytes, step: int = 1 << 20) -> bytes:
    seal = cipher.seal()
    parts = [seal.update(memoryview(data)[start : start + step]) for start in range(0, len(data), step)]
    return b"".join(parts) + seal.finish()


def opened(cipher: Cipher, data: bytes, step: int = 1 << 20) -> bytes:
    opening = cipher.unseal()
    parts = [opening.update(data[start : start + step]) for start in range(0, len(data), step)]
    return b"".join(parts) + opening.finish()


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [100_003, CHUNK, 5 * CHUNK])
def test_what_is_sealed_comes_back_in_whatever_pieces_it_is_moved(keys: KeyFile, size: int, step: int) -> None:
    cipher, data = Cipher(keys), random.Random(size).randbytes(size)
    stored = sealed(cipher, data, step)
    assert opened(cipher, stored, step) == data
    assert plain_size(len(stored)) == size


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_change_to_sealed_bytes_goes_unnoticed(keys: KeyFile, data: st.DataObject) -> None:
    cipher, plain = Cipher(keys), random.Random(1).randbytes(2 * CHUNK + 100)
    stored = bytearray(sealed(cipher, plain))
    change = data.draw(st.sampled_from(["flip", "cut", "swap", "append"]))
    if change == "flip":
        # Of the header what follows the wrapped key is zeros, and authenticated all the same.
        stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "cut":
        del stored[data.draw(st.integers(0, len(stored) - 1)) :]
    elif change == "swap":
        first, second = (slice(HEADER + n * (CHUNK + TAG), HEADER + (n + 1) * (CHUNK + TAG)) for n in (0, 1))
        stored[first], stored[second] = stored[second], stored[first]
    else:
        stored += b"\0" * data.draw(st.integers(1, CHUNK))
    with pytest.raises(FailedPrecondition):
        opened(cipher, bytes(stored))


def test_chunks_that_end_where_a_chunk_ends_cannot_be_cut_off(keys: KeyFile) -> None:
    cipher = Cipher(keys)
    stored = sealed(cipher, bytes(3 * CHUNK))
    with pytest.raises(FailedPrecondition, match="ARTIFACT_TAMPERED"):
        opened(cipher, stored[: HEADER + 2 * (CHUNK + TAG)])


def store_at(folder: Path, name: str = "artifacts.key") -> ArtifactStore:
    key_file = folder / name
    if not key_file.exists():
        KeyFile.create(key_file, name)
    return ArtifactStore(f"file://{folder}/artifacts#key_file={key_file}")


SECRET = b"the weights of the secret model " * 1000


def test_a_store_with_a_key_file_keeps_nothing_readable(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    source = tmp_path / "source"
    source.write_bytes(SECRET)
    digest = store.put_bytes("acme", SECRET)
    assert digest == digest_of(SECRET) == store.put_file("acme", source)
    draft = store.draft("acme", area=CHECKPOINTS)
    draft.write(SECRET)
    store.publish("acme", draft.finish(), area=CHECKPOINTS)
    files = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(b"secret" not in path.read_bytes() for path in files)
    assert store.read("acme", digest) == bytes(store.mapped("acme", digest)) == SECRET
    assert store.size("acme", digest) == len(SECRET)
    store.verify("acme", digest)
    store.fetch_to("acme", digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == SECRET
    assert [name for name, _ in store.listing("acme", area=CHECKPOINTS)] == [digest]


def test_without_its_keys_a_sealed_artifact_is_refused_by_name(tmp_path: Path) -> None:
    digest = store_at(tmp_path).put_bytes("acme", SECRET)
    with pytest.raises(FailedPrecondition, match="ARTIFACT_SEALED"):
        ArtifactStore(f"file://{tmp_path}/artifacts").read("acme", digest)
    with pytest.raises(FailedPrecondition, match="ARTIFACT_KEY_MISSING"):
        store_at(tmp_path, "other.key").read("acme", digest)


def test_a_store_that_turns_to_encryption_still_reads_what_it_had(tmp_path: Path) -> None:
    plain = ArtifactStore(f"file://{tmp_path}/artifacts")
    old = plain.put_bytes("acme", b"old")
    store = store_at(tmp_path)
    assert store.read("acme", old) == b"old"
    assert bytes(store.mapped("acme", old)) == b"old"


def test_keys_change_by_a_new_first_line(tmp_path: Path) -> None:
    digest = store_at(tmp_path).put_bytes("acme", SECRET)
    path = tmp_path / "artifacts.key"
    KeyFile.create(tmp_path / "second.key", "second")
    path.write_text((tmp_path / "second.key").read_text() + path.read_text())
    store = store_at(tmp_path)
    assert store.read("acme", digest) == SECRET
    newer = store.put_bytes("acme", b"newer")
    path.write_text((tmp_path / "second.key").read_text())
    assert store_at(tmp_path).read("acme", newer) == b"newer"
    with pytest.raises(FailedPrecondition, match="ARTIFACT_KEY_MISSING"):
        store_at(tmp_path).read("acme", digest)


@pytest.mark.parametrize("content", ["", "name", "name notbase64!", "name c2hvcnQ=", "# only a comment\n"])
def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(InvalidArgument) as caught:
        KeyFile(path)
    assert list(caught.value.fields) == ["artifacts.key_file"]


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    KeyFile.create(path, "name")
    assert path.stat().st_mode & 0o077 == 0
    path.chmod(0o604)
    with pytest.raises(InvalidArgument, match="INVALID_FIELD"):
        KeyFile(path)


class Vault:
    """A key-management service: it hands out references, and the data keys stay with it."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    def wrap(self, data_key: bytes) -> bytes:
        reference = b"vault:%d" % len(self.kept)
        self.kept[reference] = data_key
        return reference

    def unwrap(self, wrapped: bytes) -> bytes:
        return self.kept[wrapped]


def test_any_provider_of_keys_fits(tmp_path: Path) -> None:
    vault: KeyProvider = Vault()
    store = ArtifactStore(f"file://{tmp_path}", Cipher(vault))
    assert store.read("acme", store.put_bytes("acme", SECRET)) == SECRET


@pytest.mark.parametrize(
    "url",
    ["s3://user:secret@bucket/x", "s3://bucket/x?secret=abc", "file:///x#key_file=relative", "file:///x#key=abc"],
)
def test_a_url_that_carries_secrets_or_nonsense_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(LeptonError) as caught:
        ArtifactStore(url)
    assert "abc" not in str(caught.value)
    assert "user:secret" not in str(caught.value)
    assert isinstance(caught.value, InvalidArgument)
    assert list(caught.value.fields) == ["artifacts"]
