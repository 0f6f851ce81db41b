"""Code bundles: unpacked whole, and never outside their folder."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton.artifacts import ArtifactStore
from lepton.errors import InvalidArgument
from services.agent.bundle import entry_point, unpack


def member(name: str, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as bundle:
        for info, content in members:
            if info.isreg():
                info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    def unpacked(data: bytes) -> Path:
        store = ArtifactStore(f"file://{tmp_path}/store")
        folder = tmp_path / "work" / "code"
        folder.mkdir(parents=True)
        unpack(store, "acme", store.put_bytes("acme", data), folder)
        return folder

    return unpacked


def test_a_bundle_is_unpacked_and_its_script_found(put: Callable[[bytes], Path]) -> None:
    folder = put(archive((member("src/train.py"), b"print(1)")))
    assert entry_point(folder, "src/train.py").read_text() == "print(1)"
    assert [each.name for each in folder.parent.iterdir()] == ["code"]
    for name in ("src", "missing.py", "../../store", "/etc/passwd"):
        with pytest.raises(InvalidArgument):
            entry_point(folder, name)


@pytest.mark.parametrize(
    "harm",
    [
        member("../escaped"),
        member("/tmp/escaped"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc"),
        member("link", type=tarfile.SYMTYPE, linkname="../.."),
        member("hard", type=tarfile.LNKTYPE, linkname="../../outside"),
        member("device", type=tarfile.CHRTYPE),
        member("pipe", type=tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.linkname}",
)
def test_a_bundle_that_means_harm_is_refused(
    put: Callable[[bytes], Path], tmp_path: Path, harm: tarfile.TarInfo
) -> None:
    if harm.name == "/tmp/escaped":  # made relative instead
        put(archive((harm, b"x")))
        assert not Path("/tmp/escaped").exists()
        return
    with pytest.raises(InvalidArgument):
        put(archive((harm, b"x")))
    assert not (tmp_path / "work" / "escaped").exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"not an archive", archive((member("a"), b"x" * 100000))[:60]],
    ids=["empty", "text", "truncated"],  # an id of its own bytes would hold the time of the compression
)
def test_what_is_not_an_archive_is_refused(put: Callable[[bytes], Path], data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        put(data)
