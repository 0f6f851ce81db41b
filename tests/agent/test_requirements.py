"""Lists of requirements: what may be in one, which share an environment, and that environments work."""

import asyncio
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from lepton.errors import FailedPrecondition, InvalidArgument
from services.agent.confinement import Confinement
from services.agent.requirements import PipSettings, build, checked, key_of, pip_settings
from tests.harness.wait import until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "numpy==2.4.6\n# a remark\n\npandas>=2 ; python_version > '3.8'  # another",
        "torch[all] ~= 2.0",
        "--index-url https://pypi.example.com/simple\nnumpy",
        "pkg==1 --hash=sha256:" + "a" * 64,
        "pkg==1 \\\n  --hash=sha256:" + "a" * 64,
        "pkg @ https://example.com/pkg-1-py3-none-any.whl",
        "",
    ],
)
def test_ordinary_lists_are_taken_as_they_are(text: str) -> None:
    assert checked(text.encode()) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("numpy\n-r other.txt", 2),
        ("-c constraints.txt", 1),
        ("-e .", 1),
        ("--editable=.", 1),
        ("--requirement other.txt", 1),
        ("\\\n-r other.txt", 1),
        ("./local", 1),
        ("../local", 1),
        ("/etc/local", 1),
        ("file:///etc/local", 1),
        ("pkg @ file:///etc/local", 1),
        ("pkg --config-settings=x\x1b", 1),
        ("--global-option=x", 1),
        ("--find-links-x", 1),
        ("--find-links ./wheels", 1),
        ("--index-url=file:///srv", 1),
    ],
)
def test_what_the_environments_name_would_not_know_of_is_refused(text: str, line: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        checked(text.encode())
    assert caught.value.reason == "REQUIREMENTS_INVALID"
    assert f"line {line}" in caught.value.metadata["problem"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * (2 << 20)])
def test_what_is_no_list_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument):
        checked(content)


def test_equal_lists_share_an_environment() -> None:
    assert key_of("numpy\n") == key_of("numpy\r\n") == key_of("numpy") != key_of("numpy==1")


def test_pip_hears_of_the_nodes_own_settings_and_of_no_secret() -> None:
    environ = {"PIP_INDEX_URL": "https://a", "https_proxy": "http://p", "AGENT_SECRET": "x", "PIP_CERT": "/c"}
    made = pip_settings(PipSettings(environment={"PIP_INDEX_URL": "https://b"}), environ)
    assert made.environment == {"PIP_INDEX_URL": "https://b", "https_proxy": "http://p", "PIP_CERT": "/c"}


def wheel(folder: Path, name: str, version: str, content: str) -> None:
    """A package, as pip installs it."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", content)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


async def made(tmp_path: Path, text: str, **settings: object) -> Path:
    folder = tmp_path / "environment"
    folder.mkdir()
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    pip = PipSettings(environment=environment, **settings)  # type: ignore[arg-type]
    facts = await build(checked(text.encode()), folder, pip=pip, confinement=Confinement(limits={"core": 0}))
    return Path(facts["python"])


CONTROL = "import importlib.util; print(importlib.util.find_spec('only_here'))"


def says(python: Path, code: str) -> str:
    told = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return told.stdout.strip()


async def test_an_environment_has_its_own_packages_before_those_of_the_node(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "only_here", "1.0", "WORD = 'here'")
    wheel(tmp_path / "wheels", "tomli_w", "99.0", "WORD = 'newer than the node'")
    python = await made(tmp_path, "only_here\ntomli_w>=99\nnumpy\n")
    code = (
        "import only_here, tomli_w, numpy, lepton, services.agent, sys;print(only_here.WORD, tomli_w.WORD, sys.prefix)"
    )
    said = await asyncio.to_thread(says, python, code)
    assert said == f"here newer than the node {python.parents[1]}"
    assert await asyncio.to_thread(says, Path(sys.executable), CONTROL) == "None"


async def test_a_failure_shows_what_pip_said_last(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await made(tmp_path, "no-such-package-of-lepton==9\n")
    assert caught.value.reason == "REQUIREMENTS_FAILED"
    assert "No matching distribution found for no-such-package-of-lepton==9" in caught.value.metadata["problem"]


async def test_packages_that_would_have_to_be_built_are_not_unless_the_node_allows_it(tmp_path: Path) -> None:
    source = tmp_path / "wheels"
    source.mkdir()
    mark = tmp_path / "ran"
    with zipfile.ZipFile(source / "evil-1.0.zip", "w") as file:
        file.writestr("evil-1.0/setup.py", f"open({str(mark)!r}, 'w').close()")
        file.writestr("evil-1.0/PKG-INFO", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    with pytest.raises(FailedPrecondition, match="REQUIREMENTS_FAILED"):
        await made(tmp_path, "evil\n")
    assert not mark.exists()


async def test_pip_is_ended_when_it_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="was not done within"):
        await made(tmp_path, "numpy\n", timeout_s=0.01)
    ours = psutil.Process(os.getpid())
    await until(lambda: not [each for each in ours.children(recursive=True) if str(tmp_path) in str(each.cmdline())])
