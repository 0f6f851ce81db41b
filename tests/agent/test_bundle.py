"""Code bundles: unpacked whole, and never outside their folder; of what means harm nothing is done."""

import gzip
import io
import os
import pickle
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lepton import bundle as sdk
from lepton import data
from lepton.artifacts import ArtifactStore
from lepton.errors import InvalidArgument, LeptonError
from lepton.models.loading import load as load_model
from lepton.models.package import ModelPackage
from lepton.train import checkpoints
from services.agent.bundle import CODE, DATA, Caps, entry_point, is_data, unpack, working_directory
from tests.harness.watched import watched


def member(name: str, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def archive(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", form: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode, format=form) as bundle:  # type: ignore[call-overload]
        for info, content in members:
            if info.isreg() and not info.size:
                info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    def unpacked(content: bytes, caps: Caps = CODE) -> Path:
        path, folder = tmp_path / "work" / "archive", tmp_path / "work" / "code"
        folder.mkdir(parents=True)
        path.write_bytes(content)
        unpack(path, folder, caps)
        return folder

    return unpacked


def test_a_bundle_is_unpacked_and_its_script_found(put: Callable[..., Path]) -> None:
    folder = put(archive((member("src/train.py"), b"print(1)")))
    assert entry_point(folder, "src/train.py").read_text() == "print(1)"
    for name in ("src", "missing.py", "../../store", "/etc/passwd", "../archive"):
        with pytest.raises(InvalidArgument) as caught:
            entry_point(folder, name)
        assert list(caught.value.fields) == ["code.entry_point"]
    with pytest.raises(InvalidArgument):
        working_directory(folder, "src/train.py")
    assert working_directory(folder, "") == folder


def test_modes_are_plain_whatever_the_archive_says(put: Callable[..., Path]) -> None:
    folder = put(
        archive(
            (member("run", mode=0o6777), b"x"),
            (member("read", mode=0o4644), b"x"),
            (member("place", type=tarfile.DIRTYPE, mode=0o7777), b""),
        )
    )
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
    assert modes["run"] & 0o7022 == modes["read"] & 0o7022 == modes["place"] & 0o7022 == 0
    assert modes["run"] & 0o100
    assert not modes["read"] & 0o111


def test_links_that_stay_within_are_kept(put: Callable[..., Path]) -> None:
    folder = put(
        archive(
            (member("a/b/link", type=tarfile.SYMTYPE, linkname="../../src/train.py"), b""),
            (member("src/train.py"), b"x"),
            (member("folder", type=tarfile.SYMTYPE, linkname="src"), b""),
        )
    )
    assert (folder / "a/b/link").read_bytes() == (folder / "folder/train.py").read_bytes() == b"x"


def pax_bomb() -> bytes:
    header = tarfile.TarInfo("bomb")
    header.type, header.size = tarfile.XHDTYPE, 8**11 - 1
    return header.tobuf(tarfile.USTAR_FORMAT)


def nested_headers() -> bytes:
    record = b"20 comment=abcdefghi\n"
    header = member("h", type=tarfile.XHDTYPE, size=len(record)).tobuf(tarfile.USTAR_FORMAT)
    return (header + record.ljust(512, b"\0")) * 3000 + b"\0" * 1024


def negative_size() -> bytes:
    raw = bytearray(member("negative").tobuf(tarfile.USTAR_FORMAT))
    raw[124:136] = b"\xff" + (-512).to_bytes(11, "big", signed=True)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw) + b"\0" * 1024


def gzip_bomb(size: int) -> bytes:
    zeros = io.BytesIO()
    with gzip.GzipFile(fileobj=zeros, mode="wb", mtime=0) as packed:
        packed.write(member("zeros", size=size).tobuf(tarfile.USTAR_FORMAT))
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            packed.write(block)
    return zeros.getvalue()


def swapped_folder() -> bytes:
    link = member("src", type=tarfile.SYMTYPE, linkname="../..")
    return archive((link, b""), (member("src/escaped"), b"x"))


HARM = {
    "parent": lambda: archive((member("../escaped"), b"x")),
    "parent deep within": lambda: archive((member("a/../../escaped"), b"x")),
    "absolute": lambda: archive((member("/tmp/lepton-escaped"), b"x")),
    "backslash": lambda: archive((member("..\\escaped"), b"x")),
    "control character": lambda: archive((member("a\nb"), b"x")),
    "link to an absolute path": lambda: archive((member("link", type=tarfile.SYMTYPE, linkname="/etc"), b"")),
    "link to a parent": lambda: archive((member("link", type=tarfile.SYMTYPE, linkname="../.."), b"")),
    "link to nothing": lambda: archive((member("link", type=tarfile.SYMTYPE, linkname="missing"), b"")),
    "link in place of a folder": swapped_folder,
    "folder in place of a link": lambda: archive(
        (member("src/a"), b"x"), (member("src", type=tarfile.SYMTYPE, linkname="/tmp"), b"")
    ),
    "links in a chain": lambda: archive(
        (member("a", type=tarfile.SYMTYPE, linkname="b/.."), b""),
        (member("b", type=tarfile.SYMTYPE, linkname="c"), b""),
        (member("c", type=tarfile.DIRTYPE), b""),
    ),
    "file through a link": lambda: archive(
        (member("c", type=tarfile.DIRTYPE), b""),
        (member("a", type=tarfile.SYMTYPE, linkname="c"), b""),
        (member("a/escaped"), b"x"),
    ),
    "hard link out": lambda: archive((member("hard", type=tarfile.LNKTYPE, linkname="../../outside"), b"")),
    "hard link within": lambda: archive(
        (member("file"), b"x"), (member("hard", type=tarfile.LNKTYPE, linkname="file"), b"")
    ),
    "device": lambda: archive((member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3), b"")),
    "disk": lambda: archive((member("disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0), b"")),
    "named pipe": lambda: archive((member("pipe", type=tarfile.FIFOTYPE), b"")),
    "the same name twice": lambda: archive((member("a"), b"x"), (member("a"), b"y")),
    "a file as a folder": lambda: archive((member("a"), b"x"), (member("a/b"), b"y")),
    "gzip bomb": lambda: gzip_bomb(256 << 20),
    "endless header": pax_bomb,
    "headers in headers": nested_headers,
    "negative size": negative_size,
    "sparse": lambda: (
        member("sparse", type=tarfile.GNUTYPE_SPARSE, size=8**11 - 1).tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    ),
    "empty": lambda: b"",
    "text": lambda: b"not an archive",
    "zip": lambda: zipped(),
    "pickle": lambda: pickle.dumps(Executes()),
    "truncated": lambda: archive((member("a"), os.urandom(100_000)))[:5000],
    "truncated header": lambda: archive((member("a"), b"x" * 100_000), mode="w")[:300],
    "cut off": lambda: archive((member("a"), b"x" * 100_000), mode="w")[:5000],
}


class Executes:
    """Runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/lepton-unpickled",)


def sparse() -> bytes:
    header = member("sparse", type=tarfile.GNUTYPE_SPARSE, size=8**11 - 1)
    return header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        packed.writestr("../escaped", "x")
    return data.getvalue()


def outside(folder: Path) -> list[str]:
    """What lies beside the folder of the code, in the test's own folder and where harm would go."""
    beside = [each.name for each in folder.rglob("*") if "work/code" not in str(each)]
    return sorted({*beside} - {"work", "archive"}) + [str(each) for each in Path("/tmp").glob("lepton-escaped")]


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_what_means_harm_is_refused_and_nothing_of_it_is_done(
    put: Callable[..., Path], tmp_path: Path, harm: Callable[[], bytes]
) -> None:
    content = harm()
    with watched(tmp_path) as seen, pytest.raises(InvalidArgument) as caught:
        put(content)
    assert caught.value.reason == "BUNDLE_INVALID"
    assert caught.value.metadata["problem"]
    assert seen.harm == []
    assert outside(tmp_path) == []
    written = sum(each.stat().st_size for each in (tmp_path / "work/code").rglob("*") if each.is_file())
    assert written <= 128 << 20


@pytest.mark.parametrize("harm", ["parent", "absolute", "link in place of a folder"])
def test_a_careless_extraction_is_caught_by_the_same_checks(tmp_path: Path, harm: str) -> None:
    """The negative control of the test above."""
    folder = tmp_path / "work" / "code"
    folder.mkdir(parents=True)
    try:
        with watched(tmp_path / "work" / "code") as seen, tarfile.open(fileobj=io.BytesIO(HARM[harm]())) as careless:
            careless.extractall(folder, filter="fully_trusted")
        assert seen.harm
        assert outside(tmp_path)
    finally:
        Path("/tmp/lepton-escaped").unlink(missing_ok=True)


def test_caps_hold_whatever_the_headers_say(put: Callable[..., Path]) -> None:
    content = archive(*((member(f"f{number}"), b"x" * 1000) for number in range(20)), mode="w")
    assert "more than 10 entries" in refusal(lambda: put(content, Caps(entries=10, bytes=1 << 30)))


def test_caps_of_bytes(put: Callable[..., Path]) -> None:
    content = archive(*((member(f"f{number}"), b"x" * 1000) for number in range(20)), mode="w")
    assert "more than 5000 bytes" in refusal(lambda: put(content, Caps(entries=100, bytes=5000)))


def test_unpacking_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    answers: Iterator[bool] = iter([False, False, *([True] * 1000)])
    (tmp_path / "archive").write_bytes(archive((member("a"), bytes(1 << 20)), mode="w"))
    (tmp_path / "code").mkdir()
    problem = refusal(lambda: unpack(tmp_path / "archive", tmp_path / "code", is_over=lambda: next(answers)))
    assert "not wanted any more" in problem


def test_data_is_told_from_other_artifacts(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x")
    sdk.of_data(tmp_path / "file.txt").write(tmp_path / "file.tar")
    sdk.of_code(tmp_path).write(tmp_path / "code.tar.gz")
    (tmp_path / "plain.tar").write_bytes(archive((member("a"), b"x"), mode="w"))
    names = ("file.tar", "code.tar.gz", "plain.tar", "file.txt")
    assert [is_data(tmp_path / name) for name in names] == [True, False, False, False]
    (tmp_path / "out").mkdir()
    assert unpack(tmp_path / "file.tar", tmp_path / "out", DATA).single == "file.txt"


PICKLED = {
    "npz": lambda path: np.savez(path.with_suffix(".npz"), x=np.array([Executes()], dtype=object), y=np.zeros(1)),
    "npy in npz": lambda path: np.savez(path.with_suffix(".npz"), x=np.array([{}], dtype=object), y=np.zeros(1)),
    "torch.save": lambda path: torch.save({"x": Executes()}, path.with_suffix(".npz")),
    "pickle": lambda path: path.with_suffix(".npz").write_bytes(pickle.dumps(Executes())),
}


@pytest.mark.parametrize("kind", PICKLED)
def test_pickled_data_is_refused_and_not_unpickled(tmp_path: Path, kind: str) -> None:
    PICKLED[kind](tmp_path / "data")
    with watched(tmp_path) as seen, pytest.raises(LeptonError):
        data.load(str(tmp_path / "data.npz"))
    with watched(tmp_path) as also, pytest.raises(LeptonError):
        data.from_safetensors((tmp_path / "data.npz").read_bytes())
    assert seen.started == seen.unpickled == also.started == also.unpickled == []
    assert not Path("/tmp/lepton-unpickled").exists()


def test_a_pickled_checkpoint_or_model_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path}/store")
    evil, position = pickle.dumps(Executes()), checkpoints.Position(step=1, epoch=0, samples=1)
    bad = store.put_bytes("acme", evil)
    good = checkpoints.save(store, "acme", {"w": torch.zeros(4)}, position=position)
    document = store.read("acme", good).decode()
    files = set(re.findall("sha256:[0-9a-f]{64}", document))
    swapped = [store.put_bytes("acme", document.replace(file, bad).encode()) for file in files]
    package = ModelPackage.__new__(ModelPackage)
    with watched(tmp_path) as seen:
        for manifest in (bad, *swapped):
            with pytest.raises(LeptonError):
                _ = checkpoints.load(store, "acme", manifest).state
        with pytest.raises(LeptonError):
            ModelPackage.parse(evil)
        with pytest.raises(LeptonError):
            load_model(package, evil)
    assert swapped
    assert seen.started == seen.unpickled == []
    assert not Path("/tmp/lepton-unpickled").exists()


def test_a_careless_load_of_pickled_data_is_caught_by_the_same_checks(tmp_path: Path) -> None:
    """The negative control of the test above."""
    PICKLED["pickle"](tmp_path / "data")
    try:
        with watched(tmp_path) as seen:
            pickle.loads((tmp_path / "data.npz").read_bytes())
        assert seen.unpickled
        assert seen.started
    finally:
        Path("/tmp/lepton-unpickled").unlink(missing_ok=True)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidArgument) as caught:
        call()
    return caught.value.metadata["problem"]
