"""A node keeps the model files it has fetched: each is fetched once, verified when read, and the oldest goes first."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton.artifacts import ArtifactStore, digest_of
from lepton.errors import NotFound
from services.agent.model_cache import ModelCache

KIB = 1 << 10


class CountedStore:
    """A real store that says how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self.store = ArtifactStore(f"file://{folder}")
        self.fetched: list[str] = []
        self.before: Callable[[], object] = lambda: None

    def read(self, project: str, digest: str) -> bytes:
        return self.store.read(project, digest)

    def fetch_to(self, project: str, digest: str, target: Path) -> None:
        self.before()
        self.fetched.append(digest)
        self.store.fetch_to(project, digest, target)


@pytest.fixture
def store(tmp_path: Path) -> CountedStore:
    return CountedStore(tmp_path / "store")


def made(tmp_path: Path, most_bytes: int = 64 * KIB) -> ModelCache:
    cache = ModelCache.made(tmp_path / "cache", most_bytes=most_bytes)
    assert cache is not None
    return cache


def test_a_file_is_fetched_once_and_survives_the_agent(tmp_path: Path, store: CountedStore) -> None:
    digest = store.store.put_bytes("acme", b"w" * KIB)
    for number in range(3):
        made(tmp_path).over(store).fetch_to("acme", digest, tmp_path / f"copy{number}")
        assert (tmp_path / f"copy{number}").read_bytes() == b"w" * KIB
    assert store.fetched == [digest]


def test_a_kept_file_that_has_rotted_is_fetched_again(tmp_path: Path, store: CountedStore) -> None:
    digest = store.store.put_bytes("acme", b"w" * KIB)
    cache = made(tmp_path)
    cache.over(store).fetch_to("acme", digest, tmp_path / "first")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.chmod(0o600)
    kept.write_bytes(b"!" * KIB)
    cache.over(store).fetch_to("acme", digest, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == b"w" * KIB
    assert store.fetched == [digest, digest]


def test_the_longest_unused_is_dropped_and_the_cap_is_kept(tmp_path: Path, store: CountedStore) -> None:
    cache = made(tmp_path, most_bytes=3 * KIB)
    digests = [store.store.put_bytes("acme", bytes([each]) * KIB) for each in range(5)]
    for number, digest in enumerate(digests[:3]):
        cache.over(store).fetch_to("acme", digest, tmp_path / "copy")
        kept = tmp_path / "cache" / f"acme-{digest.removeprefix('sha256:')}"
        os.utime(kept, ns=(number, number))  # the order of use, whatever the clock's grain
    cache.over(store).fetch_to("acme", digests[0], tmp_path / "copy")  # the oldest is used again
    cache.over(store).fetch_to("acme", digests[3], tmp_path / "copy")
    names = {path.name.removeprefix("acme-") for path in (tmp_path / "cache").iterdir()}
    assert names == {digests[each].removeprefix("sha256:") for each in (0, 2, 3)}
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 3 * KIB


def test_a_tenant_gets_nothing_out_of_anothers_cache(tmp_path: Path, store: CountedStore) -> None:
    digest = store.store.put_bytes("acme", b"secret")
    cache = made(tmp_path)
    cache.over(store).fetch_to("acme", digest, tmp_path / "copy")
    with pytest.raises(NotFound):
        cache.over(store).fetch_to("other", digest, tmp_path / "stolen")
    assert not (tmp_path / "stolen").exists()


def test_two_replicas_that_start_together_fetch_once(tmp_path: Path, store: CountedStore) -> None:
    digest = store.store.put_bytes("acme", b"w" * KIB)
    cache, begun, go = made(tmp_path), threading.Event(), threading.Event()
    store.before = lambda: (begun.set(), go.wait(30))
    threads = [
        threading.Thread(target=cache.over(store).fetch_to, args=("acme", digest, tmp_path / f"copy{number}"))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go.set()
    for thread in threads:
        thread.join(30)
    assert store.fetched == [digest]
    assert {(tmp_path / f"copy{number}").read_bytes() for number in range(4)} == {b"w" * KIB}


def test_what_does_not_fit_is_handed_out_and_not_kept(tmp_path: Path, store: CountedStore) -> None:
    digest = store.store.put_bytes("acme", b"w" * (4 * KIB))
    made(tmp_path, most_bytes=KIB).over(store).fetch_to("acme", digest, tmp_path / "copy")
    assert digest_of((tmp_path / "copy").read_bytes()) == digest
    assert not list((tmp_path / "cache").iterdir())
