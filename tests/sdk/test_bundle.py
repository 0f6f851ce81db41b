"""Bundles of code and data: the same folder gives the same digest, what is odd is refused."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton import bundle
from lepton.bundle import Caps
from lepton.bundle_names import link_target, problem_of
from lepton.errors import InvalidArgument, NotFound
from services.agent.bundle import unpack


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def names(folder: Path) -> list[str]:
    return [entry.name for entry in bundle.of_code(folder).files]


def test_equal_folders_have_equal_digests_whenever_and_wherever_they_were_made(tmp_path: Path) -> None:
    first = tree(tmp_path / "one", train="print(1)", src__model="x = 1", src__data="y")
    second = tree(tmp_path / "two", src__data="y", src__model="x = 1", train="print(1)")
    os.utime(second / "train", (1, 1))
    (second / "src" / "data").chmod(0o600)
    digests = {bundle.of_code(each).write(tmp_path / "archive") for each in (first, second)}
    assert len(digests) == 1
    for change in (lambda: (second / "train").write_text("print(2)"), lambda: (second / "src" / "model").chmod(0o755)):
        change()
        digests.add(bundle.of_code(second).write(tmp_path / "archive"))
    (second / "train").rename(second / "main")
    digests.add(bundle.of_code(second).write(tmp_path / "archive"))
    assert len(digests) == 4


def test_what_is_bundled_is_what_is_unpacked(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", train="print(1)", deep__er__model="x = 1")
    (folder / "train").chmod(0o755)
    (folder / "link").symlink_to("deep/er/model")
    (folder / "deep" / "up").symlink_to("../train")
    (folder / "folder").symlink_to("deep")
    (folder / "empty").mkdir()
    (folder / "ünïcode näme").write_text("ü")
    long = folder / ("a" * 200) / ("b" * 200)
    long.mkdir(parents=True)
    (long / "c").write_text("long")
    bundle.of_code(folder).write(tmp_path / "archive")
    out = tmp_path / "out"
    out.mkdir()
    unpack(tmp_path / "archive", out)

    def shape(root: Path) -> dict[str, str]:
        found = {}
        for each in root.rglob("*"):
            is_plain = each.is_file() and not each.is_symlink()
            name = str(each.relative_to(root))
            found[name] = each.read_text() if is_plain else str(each.readlink()) if each.is_symlink() else "/"
        return found

    assert shape(out) == shape(folder)
    assert os.access(out / "train", os.X_OK)


def test_ignore_files_follow_git(tmp_path: Path) -> None:
    tree(tmp_path, **{".gitignore": "*.log\n!keep.log\n/data\nbuild/\n", "train.py": "", "a.log": "", "keep.log": ""})
    tree(tmp_path, data__x="", src__data__y="", src__build__z="", src__a="", src__b="")
    (tmp_path / "src" / ".gitignore").write_text("b\n")
    assert names(tmp_path) == [".gitignore", "keep.log", "src/.gitignore", "src/a", "src/data/y", "train.py"]
    (tmp_path / ".leptonignore").write_text("src/\n!venv\n")  # then .gitignore counts no more
    tree(tmp_path, venv__x="", node_modules__m="", __pycache__="")
    assert names(tmp_path) == [".gitignore", "a.log", "data/x", "keep.log", "train.py", "venv/x"]


def test_what_never_belongs_into_a_bundle_is_left_out_by_itself(tmp_path: Path) -> None:
    for name in (
        ".git/config",
        "__pycache__/m.pyc",
        ".venv/bin/python",
        "node_modules/x/i.js",
        "src/m.pyc",
        ".DS_Store",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "train.py").write_text("")
    code = bundle.of_code(tmp_path)
    assert [entry.name for entry in code.files] == ["train.py"]
    assert set(code.left_out) == {".DS_Store", ".git/", ".venv/", "__pycache__/", "node_modules/", "src/m.pyc"}
    assert "1 files" in code.summary()
    assert any("left out  .git/" in line for line in code.listing())


def test_data_is_everything_that_is_there(tmp_path: Path) -> None:
    tree(tmp_path / "d", **{".gitignore": "*", ".git/x": "", "a.log": ""})
    assert [entry.name for entry in bundle.of_data(tmp_path / "d").files] == [".git/x", ".gitignore", "a.log"]
    assert [entry.name for entry in bundle.of_data(tmp_path / "d" / "a.log").files] == ["a.log"]
    with pytest.raises(NotFound):
        bundle.of_data(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        (Caps(files=2, bytes=1 << 20, file_bytes=1 << 20), "3 files"),
        (Caps(files=9, bytes=1 << 20, file_bytes=1000), "middle has 2.0 KiB"),
        (Caps(files=9, bytes=2500, file_bytes=1 << 20), "it holds 3.0 KiB"),
    ],
)
def test_what_is_too_large_is_refused_and_the_largest_is_named(tmp_path: Path, caps: Caps, words: str) -> None:
    tree(tmp_path, small="x", middle="x" * 2048, other="x" * 1024)
    with pytest.raises(InvalidArgument) as caught:
        bundle.of_code(tmp_path, caps=caps)
    assert caught.value.reason == "BUNDLE_TOO_LARGE"
    assert words in caught.value.metadata["problem"]
    assert caught.value.metadata["largest"].startswith("middle (2.0 KiB), other (1.0 KiB)")


def leads_out(folder: Path) -> None:
    (folder / "odd").symlink_to("/etc/passwd")


def climbs(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    (folder / "odd").symlink_to("../secret")


def by_a_detour(folder: Path) -> None:
    (folder / "inner").symlink_to("..")
    (folder / "odd").symlink_to("inner/secret")
    (folder.parent / "secret").write_text("x")


def dangles(folder: Path) -> None:
    (folder / "odd").symlink_to("nothing")


def to_what_is_left_out(folder: Path) -> None:
    (folder / ".gitignore").write_text("hidden")
    (folder / "hidden").write_text("x")
    (folder / "odd").symlink_to("hidden")


def turns_in_a_circle(folder: Path) -> None:
    (folder / "odd").symlink_to("odd")


def listens(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path may have 107 characters
    try:
        socket.socket(socket.AF_UNIX).bind("odd")
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "make",
    [
        *(leads_out, climbs, by_a_detour, dangles, to_what_is_left_out, turns_in_a_circle, listens),
        lambda folder: os.mkfifo(folder / "odd"),
        lambda folder: (folder / "od\nd").write_text("x"),
        lambda folder: (folder / "od\\d").write_text("x"),
        lambda folder: (folder / os.fsdecode(b"od\xffd")).touch(),
    ],
)
def test_what_no_node_could_use_is_refused_by_name(tmp_path: Path, make: Callable[[Path], object]) -> None:
    folder = tree(tmp_path / "code", train="print(1)")
    make(folder)
    with pytest.raises(InvalidArgument) as caught:
        bundle.of_code(folder)
    assert caught.value.reason == "BUNDLE_FILE_REFUSED"
    assert "od" in caught.value.metadata["file"] or "inner" in caught.value.metadata["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="devices are made by root")
def test_a_device_is_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", train="print(1)")
    try:
        os.mknod(folder / "odd", 0o600 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices may be made here")
    with pytest.raises(InvalidArgument, match="device"):
        bundle.of_code(folder)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", train="print(1)")
    for text in ("", "print(1) and more"):
        code = bundle.of_code(tree(folder, train="print(1)"))
        (folder / "train").write_text(text)
        with pytest.raises(InvalidArgument, match="changed while it was read"):
            code.write(tmp_path / "archive")


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tree(tmp_path / "code", train="print(1)")
    code = bundle.of_code(folder)
    (folder / "train").unlink()
    (folder / "train").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic link"):
        code.write(tmp_path / "archive")


@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("a", True),
        ("a/b.py", True),
        ("ü", True),
        ("a b", True),
        ("", False),
        ("/a", False),
        ("a//b", False),
        ("../a", False),
        *(("a/..", False), ("./a", False), ("a\0", False), ("a\x7f", False), ("\udcff", False), ("a" * 256, False)),
    ],
)
def test_names(name: str, is_good: bool) -> None:
    assert (problem_of(name) == "") is is_good


@pytest.mark.parametrize(
    ("name", "target", "where"),
    [
        ("l", "a", "a"),
        ("a/l", "../b", "b"),
        ("a/l", "..", ""),
        ("l", "..", None),
        ("a/l", "../../b", None),
        ("l", "/a", None),
    ],
)
def test_where_links_lead(name: str, target: str, where: str | None) -> None:
    assert link_target(name, target) == where


def test_a_folder_of_far_too_many_files_is_not_walked_to_its_end(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"f{number}").write_text("")
    with pytest.raises(InvalidArgument) as caught:
        bundle.of_code(tmp_path, caps=Caps(files=2, bytes=1, file_bytes=1))
    assert caught.value.metadata["problem"].startswith("it holds 9 files")
    shutil.rmtree(tmp_path)
