"""Artifacts and checkpoints in S3, spoken to a server of the moto library on this machine."""

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from moto.server import ThreadedMotoServer

from lepton.artifacts import CHECKPOINTS, ArtifactStore, KeyFile, digest_of
from lepton.errors import FailedPrecondition, NotFound
from lepton.train.checkpoints import Checkpoint, Position, Saver
from lepton.train.reporter import Reporter

pytestmark = pytest.mark.integration

ACCESS, SECRET = "AKIATESTTESTTESTTEST", "very-secret-access-key"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def url(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    bucket = f"lepton-{random.getrandbits(40):x}"
    fsspec.filesystem("s3", endpoint_url=endpoint).mkdir(bucket)
    return f"s3://{bucket}/artifacts?endpoint_url={endpoint}"


def test_what_is_put_is_read_back_verified_and_listed(url: str, tmp_path: Path) -> None:
    store, data = ArtifactStore(url), b"weights" * 1000
    source = tmp_path / "source"
    source.write_bytes(data)
    digest = store.put_bytes("acme", data)
    assert digest == digest_of(data) == store.put_file("acme", source)
    assert store.read("acme", digest) == bytes(store.mapped("acme", digest)) == data
    assert store.size("acme", digest) == len(data)
    store.fetch_to("acme", digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert store.projects() == ["acme"]
    with pytest.raises(NotFound):
        store.read("rival", digest)


def test_what_was_changed_in_the_bucket_is_noticed(url: str, endpoint: str) -> None:
    store = ArtifactStore(url)
    digest = store.put_bytes("acme", b"weights")
    hexadecimal = digest.removeprefix("sha256:")
    bucket = url.removeprefix("s3://").partition("?")[0]
    fsspec.filesystem("s3", endpoint_url=endpoint).pipe_file(
        f"{bucket}/acme/sha256/{hexadecimal[:2]}/{hexadecimal}", b"Weights"
    )
    with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
        store.read("acme", digest)


def test_a_large_artifact_goes_in_parts(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, source = ArtifactStore(url), tmp_path / "large"
    source.write_bytes(os.urandom(1 << 20) * 34)
    with caplog.at_level(logging.DEBUG, "s3fs"):
        digest = store.put_file("acme", source)
    assert "create_multipart_upload" in caplog.text
    assert store.size("acme", digest) == 34 << 20
    store.verify("acme", digest)


@pytest.mark.parametrize("is_sealed", [False, True], ids=["plain", "sealed"])
def test_a_checkpoint_is_written_from_a_fork_and_collected(
    url: str, tmp_path: Path, is_sealed: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if is_sealed:
        KeyFile.create(tmp_path / "key", "k")
        url += f"#key_file={tmp_path}/key"
    caplog.set_level(logging.DEBUG)
    store = ArtifactStore(url)
    saver = Saver(store, "acme", rank=0, world_size=1, reporter=Reporter(None), can_fork=False)
    weights = torch.arange(100_000.0)
    commit = saver.save(
        {"model": {"w": weights}, "step": 3},
        position=Position(step=3, epoch=0, samples=9),
        metrics={},
        config_digest="",
    )
    weights.zero_()
    commit.wait()
    loaded = Checkpoint(store, "acme", commit.digest)
    assert torch.equal(loaded.state["model"]["w"], torch.arange(100_000.0))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "key"] == []
    listed = [found for _, found in store.listing("acme", area=CHECKPOINTS)]
    assert len(listed) == 3
    assert not any(store.remove(found, older_than=0.0) for found in listed)
    assert all(store.remove(found, older_than=2e9) for found in listed)
    assert list(store.listing("acme", area=CHECKPOINTS)) == []
    assert SECRET not in caplog.text
