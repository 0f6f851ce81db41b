"""What a program needs beside what the node has: a virtual environment for each list of requirements, made with pip."""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import site
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from lepton.errors import FailedPrecondition, InvalidArgument
from services.agent import guard
from services.agent.confinement import Confinement, command

_NETWORK: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_LARGEST: Final = 1 << 20
_LAST_LINES: Final = 15
_PARENT_SITES: Final = "lepton-node.pth"
# Options of pip that a list may hold; the others name files beside it, of which the environment's key would not know.
_OPTIONS: Final = re.compile(
    r"--(?:(?:extra-)?index-url|find-links)(?:\s+|=)https?://"
    r"|--(?:no-index|pre|prefer-binary)$|--only-binary(?:\s|=)",
)
_LOCAL: Final = re.compile(r"(?:\.{0,2}/|file:|.*@\s*file:)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipSettings:
    """How environments are made on this node."""

    timeout_s: float = 900.0
    from_source: bool = False  # whether pip may build packages, which runs their code
    environment: Mapping[str, str] = field(default_factory=dict)  # PIP_* and what names proxies and certificates


def pip_settings(settings: PipSettings, environ: Mapping[str, str]) -> PipSettings:
    """The settings, with what the agent's own environment says of pip, proxies and certificates below them."""
    own = {name: value for name, value in environ.items() if name.startswith("PIP_") or name.upper() in _NETWORK}
    return replace(settings, environment={**own, **settings.environment})


def checked(content: bytes) -> str:
    """A list of requirements as text; InvalidArgument (REQUIREMENTS_INVALID) naming the line that cannot be used."""
    if len(content) > _LARGEST:
        raise _invalid(f"is larger than {_LARGEST} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _invalid("is not UTF-8 text") from error
    for number, raw in enumerate(re.sub(r"\\\r?\n", " ", text).splitlines(), start=1):
        line = raw.partition(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        if any(ord(character) < 32 and character != "\t" for character in line):
            raise _invalid(f"holds a control character in line {number}")
        if line.startswith("-") and not _OPTIONS.match(line):
            raise _invalid(f"has the option {line.split()[0]!r} in line {number}; list packages in the file itself")
        if _LOCAL.match(line):
            raise _invalid(
                f"names a local path in line {number}; put the code into the bundle itself, or build a wheel"
            )
    return text


def key_of(text: str) -> str:
    """The name of the environment: equal lists on equal nodes share one."""
    facts = {
        "requirements": text.replace("\r\n", "\n").strip(),
        "python": sys.version,
        "platform": sysconfig.get_platform(),
        "torch": _version("torch"),
        "lepton": _version("lepton-sdk"),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


async def build(text: str, folder: Path, *, pip: PipSettings, confinement: Confinement) -> Mapping[str, Any]:
    """Make the environment in an empty folder, with the packages of the node visible below its own.

    FailedPrecondition (REQUIREMENTS_FAILED) with pip's last lines.
    """
    confinement = replace(confinement, shown=(*confinement.shown, str(folder)))
    requirements = folder / "requirements.txt"
    requirements.write_text(text)
    requirements.chmod(0o644)
    home = folder / "home"
    home.mkdir()
    if confinement.uid is not None:
        for each in (folder, home):
            os.chown(each, confinement.uid, confinement.uid)
    environment = {**pip.environment, "HOME": str(home), "TMPDIR": str(home), "PATH": os.defpath, "LANG": "C.UTF-8"}
    python = folder / "bin" / "python"
    # The interpreter that this one was made from: an environment of an environment would not see its packages.
    make = (sys.executable, "-I", "-m", "venv", "--system-site-packages", "--without-pip", str(folder))
    await _run(make, folder, environment, pip.timeout_s, confinement)
    _show_the_nodes_packages(folder)
    arguments = ["install", "--no-input", "--disable-pip-version-check", "--no-color", "--progress-bar=off"]
    arguments += ["--no-warn-script-location", "--no-cache-dir", "--quiet"]
    arguments += [] if pip.from_source else ["--only-binary=:all:"]
    install = (str(python), "-I", "-m", "pip", *arguments, "--requirement", str(requirements))
    await _run(install, folder, environment, pip.timeout_s, confinement)
    await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
    return {"python": str(python)}


async def _run(
    argv: tuple[str, ...], folder: Path, environment: Mapping[str, str], timeout_s: float, confinement: Confinement
) -> None:
    held = command(confinement, argv)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *held),  # so that it ends with the agent
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        cwd=folder,
        env=dict(environment),
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate()
    except TimeoutError as error:
        raise FailedPrecondition("REQUIREMENTS_FAILED", problem=f"pip was not done within {timeout_s:g} s") from error
    finally:
        if process.returncode is None:
            _kill_group(process.pid)
            await process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise FailedPrecondition("REQUIREMENTS_FAILED", problem="\n".join(lines) or f"exit code {process.returncode}")


def _show_the_nodes_packages(folder: Path) -> None:
    # After the environment's own, so that those go first; as sites, for editable packages are links in .pth files.
    own = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    sites = {str(Path(each)) for each in (*site.getsitepackages(), sysconfig.get_path("purelib"))}
    standard = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    lines = []
    for each in dict.fromkeys(str(Path(path).resolve()) for path in sys.path if path and Path(path).is_dir()):
        if each in sites:
            lines.append(f"import site; site.addsitedir({each!r})")
        elif not each.startswith(standard):
            lines.append(each)
    (own / _PARENT_SITES).write_text("\n".join(lines) + "\n")


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("REQUIREMENTS_INVALID", problem=problem)
