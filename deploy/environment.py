"""Makes the checkout's environment (`make setup`): .venv, pinned packages, tools. Standard library only."""

import fcntl
import hashlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from deploy.tools.install import needed_tools

ROOT: Final = Path(__file__).resolve().parent.parent
INPUTS: Final = ("constraints.txt", "pyproject.toml", "sdk/pyproject.toml", "deploy/environment.py", "deploy/tools")
PACKAGES: Final = ("./sdk[torch,predict,audit,encryption,images,plots,s3,keras]", ".[node,local,dev]")


def main() -> None:
    environment = ROOT / ".venv"
    try:
        with _alone(ROOT / "constraints.txt"):
            if _is_current(environment):
                return
            python = _create(environment)
            if Path(sys.prefix) == environment:
                fill(environment)
                return
        # The tools are made for the Python of .venv, which need not be the one that this was started with.
        os.execv(python, [str(python), "-m", "deploy.environment"])
    except KeyboardInterrupt:
        raise SystemExit("\nsetup was interrupted; `make setup` goes on where it stopped") from None


def fill(environment: Path) -> None:
    """Packages and tools; each step is quick when its result is already there."""
    began = time.monotonic()
    tools = needed_tools()
    steps = 2 + len(tools)
    stamp = _stamp(environment)
    stamp.unlink(missing_ok=True)

    with (environment / "setup.log").open("w") as log:
        pip = Pip(Path(sys.executable), log)
        _say(1, steps, "packages, at the versions of constraints.txt")
        pip(["install", "--constraint", "constraints.txt", "setuptools"])
        editable = [argument for package in PACKAGES for argument in ("--editable", package)]
        # Compat mode writes a plain path file, so that packages added later are importable without another setup.
        mode = ["--no-build-isolation", "--config-settings", "editable_mode=compat"]
        pip(["install", "--constraint", "constraints.txt", *mode, *editable])
        _say(2, steps, "consistency of the packages")
        pip(["check"])
        for number, tool in enumerate(tools, start=3):
            _say(number, steps, f"tool: {tool.name}")
            tool.ensure(environment / "share" / "lepton", pip)

    stamp.write_text(_fingerprint())
    print(f"setup is complete after {time.monotonic() - began:.0f} s: .venv/bin/lepton, .venv/bin/python", flush=True)


class Pip:
    """Runs pip with all its output in a log, showing one short line per package."""

    def __init__(self, python: Path, log: IO[str]) -> None:
        self._python = python
        self._log = log

    def __call__(self, arguments: list[str]) -> None:
        command = [str(self._python), "-m", "pip", "--disable-pip-version-check", *arguments]
        if "check" not in arguments:
            command.append("--progress-bar=off")
        self._log.write(f"$ {' '.join(command)}\n")
        last: list[str] = []
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
            assert pip.stdout is not None
            for line in pip.stdout:
                self._log.write(line)
                if not line.startswith("WARNING: Location"):
                    last = [*last, line][-25:]
                    self._show(line)
        if pip.returncode != 0:
            raise SystemExit(f"pip failed; its last words (all of them: {self._log.name}):\n{''.join(last)}")

    def _show(self, line: str) -> None:
        if line.startswith(("Downloading", "  Downloading", "Processing", "Installing collected", "Building")):
            print(f"      {line.split(' (from ')[0].strip()[:110]}", flush=True)


def _create(environment: Path) -> Path:
    """The environment's Python; one that an interruption left unusable is made anew."""
    python = environment / "bin" / "python"
    if not (python.exists() and (environment / "bin" / "pip").exists()):
        print(f"making {environment.name} with Python {sys.version.split()[0]}", flush=True)
        try:
            venv.create(environment, with_pip=True, symlinks=True, clear=environment.exists())
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"could not create {environment} (Debian: apt install python3-venv): {error}") from error
    return python


def _is_current(environment: Path) -> bool:
    stamp = _stamp(environment)
    return stamp.is_file() and stamp.read_text() == _fingerprint() and (environment / "bin" / "python").exists()


def _stamp(environment: Path) -> Path:
    return environment / ".setup-complete"


def _fingerprint() -> str:
    """Changes with whatever decides what is installed, and with the place, since an environment cannot be moved."""
    digest = hashlib.sha256(f"{ROOT} {[tool.name for tool in needed_tools()]}\n".encode())
    for name in INPUTS:
        path = ROOT / name
        for file in sorted(path.rglob("*.*")) if path.is_dir() else [path]:
            if file.suffix in (".txt", ".toml", ".py"):
                digest.update(file.read_bytes())
    return digest.hexdigest()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Two setups of one checkout wait for each other."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another setup of this checkout is running; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(number: int, steps: int, what: str) -> None:
    print(f"[{number}/{steps}] {what}", flush=True)


if __name__ == "__main__":
    main()
