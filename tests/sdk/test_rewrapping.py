"""The data keys of stored artifacts, wrapped anew: nothing is written again, nothing is lost, the former key goes."""

import io
import os
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lepton.artifacts import CHECKPOINTS, ArtifactStore, Cipher, KeyFile, Listed, digest_of
from lepton.artifacts import rewrapping as module
from lepton.artifacts.files import LocalFiles
from lepton.artifacts.sealing import CHUNK, HEADER, Sealing
from lepton.errors import FailedPrecondition

DATA = random.Random(7).randbytes(CHUNK + 1000)
FIRST, SECOND = os.urandom(32), os.urandom(32)
OLD: Mapping[str, bytes] = {"first": FIRST}
BOTH: Mapping[str, bytes] = {"second": SECOND, "first": FIRST}
NEW: Mapping[str, bytes] = {"second": SECOND}


def store_with(folder: Path, keys: Mapping[str, bytes]) -> ArtifactStore:
    return ArtifactStore(f"file://{folder}/artifacts", Cipher(KeyFile.of(keys)))


def listed(store: ArtifactStore, area: str = "") -> list[Listed]:
    return [found for _, found in store.listing("acme", area=area)]


def rewrapped(store: ArtifactStore, area: str = "") -> list[bool]:
    return [store.rewrap("acme", each) for each in listed(store, area)]


@pytest.mark.parametrize("area", ["", CHECKPOINTS])
def test_after_it_the_new_key_opens_what_the_former_has_sealed_and_no_chunk_has_changed(
    tmp_path: Path, area: str
) -> None:
    old = store_with(tmp_path, OLD)
    digest = old.put_bytes("acme", DATA, area=area)
    (before,) = listed(old, area)
    stored = Path(before.path).read_bytes()
    with pytest.raises(FailedPrecondition):
        store_with(tmp_path, NEW).read("acme", digest)  # control: without it the new key opens nothing
    both = store_with(tmp_path, BOTH)
    assert rewrapped(both, area) == [True]
    new = store_with(tmp_path, NEW)
    assert new.read("acme", digest) == DATA == both.read("acme", digest)
    assert new.size("acme", digest) == len(DATA)
    (after,) = listed(new, area)
    assert (after.path, after.size, after.modified) == (before.path, before.size, before.modified)
    assert Path(after.path).read_bytes()[HEADER:] == stored[HEADER:]
    assert rewrapped(new, area) == [True]  # and it is done


def test_the_former_key_is_of_no_use_to_who_has_the_files_afterwards(tmp_path: Path) -> None:
    digest = store_with(tmp_path, OLD).put_bytes("acme", DATA)
    assert rewrapped(store_with(tmp_path, BOTH)) == [True]
    with pytest.raises(FailedPrecondition) as caught:
        store_with(tmp_path, OLD).read("acme", digest)
    assert caught.value.reason == "ARTIFACT_KEY_MISSING"


def test_it_can_be_done_again_and_again(tmp_path: Path) -> None:
    digest = store_with(tmp_path, OLD).put_bytes("acme", DATA)
    keys = dict(OLD)
    for number in range(5):
        keys = {f"key-{number}": os.urandom(32), **keys}
        assert rewrapped(store_with(tmp_path, keys)) == [True]
        newest = dict([next(iter(keys.items()))])
        assert store_with(tmp_path, newest).read("acme", digest) == DATA
    files = [each for each in (tmp_path / "artifacts").rglob("*") if each.is_file()]
    assert len(files) == 2  # the artifact, and one key beside it


def test_what_cannot_be_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    plain = ArtifactStore(f"file://{tmp_path}/artifacts").put_bytes("acme", b"plain")
    lost = store_with(tmp_path, {"lost": os.urandom(32)}).put_bytes("acme", b"lost")
    fine = store_with(tmp_path, OLD).put_bytes("acme", DATA)
    both = store_with(tmp_path, BOTH)
    by_digest = {digest: both.rewrap("acme", found) for digest, found in both.listing("acme", area="")}
    assert by_digest == {plain: False, lost: False, fine: True}
    assert both.read("acme", plain) == b"plain"


class Stopped(Exception):
    """The process ended here."""


STEPS: list[tuple[str, Callable[[pytest.MonkeyPatch], None]]] = []


def stops_at(name: str) -> Callable[[Callable[[pytest.MonkeyPatch], None]], Callable[[pytest.MonkeyPatch], None]]:
    def add(patch: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
        STEPS.append((name, patch))
        return patch

    return add


@stops_at("before the new form is written")
def _before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LocalFiles, "write", _stop)


@stops_at("while it is written")
def _while(patch: pytest.MonkeyPatch) -> None:
    def half(self: LocalFiles, path: str, source: io.BytesIO) -> None:
        Path(path).with_name(".writing-half").write_bytes(source.read(20))
        raise Stopped

    patch.setattr(LocalFiles, "write", half)


@stops_at("before the former is wiped")
def _unwiped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(module, "_wipe", _stop)


@stops_at("while the former is wiped")
def _half_wiped(patch: pytest.MonkeyPatch) -> None:
    def torn(file: int, data: bytes, offset: int) -> None:
        write(file, data[: len(data) // 2], offset)
        raise Stopped

    write = os.pwrite
    patch.setattr(os, "pwrite", torn)


def _stop(*_: Any) -> None:
    raise Stopped


@pytest.mark.parametrize("step", STEPS, ids=[name for name, _ in STEPS])
def test_a_crash_anywhere_loses_nothing_and_the_next_round_goes_on(
    tmp_path: Path, step: tuple[str, Callable[[pytest.MonkeyPatch], None]]
) -> None:
    digest = store_with(tmp_path, OLD).put_bytes("acme", DATA)
    both = store_with(tmp_path, BOTH)
    with pytest.MonkeyPatch.context() as patch:
        step[1](patch)
        with pytest.raises(Stopped):
            rewrapped(both)
    assert both.read("acme", digest) == DATA
    assert rewrapped(both) == [True]
    assert store_with(tmp_path, NEW).read("acme", digest) == DATA
    with pytest.raises(FailedPrecondition):
        store_with(tmp_path, OLD).read("acme", digest)


def test_without_the_file_beside_it_wiping_loses_the_artifact(tmp_path: Path) -> None:
    """The negative control of the order: what the crash test would see if the former form went first."""
    digest = store_with(tmp_path, OLD).put_bytes("acme", DATA)
    both = store_with(tmp_path, BOTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFiles, "write", lambda *_: None)
        rewrapped(both)
    with pytest.raises(FailedPrecondition):
        both.read("acme", digest)


def test_readers_and_writers_do_not_notice(tmp_path: Path) -> None:
    """An artifact that is read, stored again and wrapped anew at once is always whole, whoever comes first."""
    stop, failures = threading.Event(), list[BaseException]()
    both, old = store_with(tmp_path, BOTH), store_with(tmp_path, OLD)
    digest = old.put_bytes("acme", DATA, area=CHECKPOINTS)

    def again(work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as error:
            failures.append(error)

    def read() -> None:
        assert both.read("acme", digest) == DATA

    works: list[Callable[[], object]] = [
        read, read, lambda: old.put_bytes("acme", DATA, area=CHECKPOINTS), lambda: rewrapped(both, CHECKPOINTS),
    ]  # fmt: skip
    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for each in threads:
        each.start()
    for _ in range(40):
        read()
    stop.set()
    for each in threads:
        each.join()
    assert not failures
    rewrapped(both, CHECKPOINTS)
    assert store_with(tmp_path, NEW).read("acme", digest) == DATA


def test_what_lies_beside_an_artifact_goes_with_it(tmp_path: Path) -> None:
    store_with(tmp_path, OLD).put_bytes("acme", DATA)
    both = store_with(tmp_path, BOTH)
    rewrapped(both)
    (found,) = listed(both)
    assert both.remove(found, older_than=found.modified + 1)
    assert not [each for each in (tmp_path / "artifacts").rglob("*") if each.is_file()]


def test_a_key_from_beside_another_artifact_opens_nothing(tmp_path: Path) -> None:
    old, both = store_with(tmp_path, OLD), store_with(tmp_path, BOTH)
    mine, other = old.put_bytes("acme", DATA), old.put_bytes("acme", b"other")
    rewrapped(both)
    beside = {
        digest: next(Path(found.path).parent.glob(f"{Path(found.path).name}.*"))
        for digest, found in both.listing("acme", area="")
    }
    beside[mine].write_bytes(beside[other].read_bytes())
    with pytest.raises(FailedPrecondition) as caught:
        both.read("acme", mine)
    assert caught.value.reason == "ARTIFACT_TAMPERED"
    beside[other].write_bytes(b"nonsense")
    with pytest.raises(FailedPrecondition):
        both.read("acme", other)


def test_artifacts_of_the_first_format_are_read_and_not_wrapped_anew(tmp_path: Path) -> None:
    keys = KeyFile.of(OLD)
    data_key = os.urandom(32)
    wrapped = keys.wrap(data_key)
    header = (b"lepton.sealed/1\n" + len(wrapped).to_bytes(2, "big") + wrapped).ljust(HEADER, b"\0")
    from lepton.artifacts.keys import aes_gcm

    seal = Sealing(aes_gcm(data_key), header, header)
    stored = seal.update(memoryview(DATA)) + seal.finish()
    store = store_with(tmp_path, BOTH)
    digest = digest_of(DATA)
    path = tmp_path / "artifacts" / "acme" / "sha256" / digest[7:9] / f"{digest[7:]}.sealed"
    path.parent.mkdir(parents=True)
    path.write_bytes(stored)
    assert store.read("acme", digest) == DATA
    assert rewrapped(store) == [False]
    path.write_bytes(stored[:900] + b"\1" + stored[901:])
    with pytest.raises(FailedPrecondition):
        store.read("acme", digest)
