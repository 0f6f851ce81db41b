"""The Pythons of the peers: one environment each, from pinned versions, made once and kept in a cache folder."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

_PINS: Final = Path(__file__).resolve().parent
_TRIES: Final = 3


class PeerMissing(Exception):
    """A peer could not be installed here; the message is the last words of pip."""


def cache() -> Path:
    """Where environments lie: LEPTON_PEERS, or `lepton-peers` in the user's cache folder."""
    given = os.environ.get("LEPTON_PEERS")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lepton-peers"


def found(peer: str, folder: Path | None = None) -> Path | None:
    """The Python of a peer, if its environment is complete and made from these pins."""
    place = (folder or cache()) / peer
    stamp = place / ".made-from"
    return place / "bin" / "python" if stamp.is_file() and stamp.read_text() == _fingerprint(peer) else None


def ensured(peer: str, folder: Path | None = None) -> Path:
    """The Python of a peer, installed if need be; what an interruption left is made again. Raises PeerMissing."""
    root = folder or cache()
    if ready := found(peer, root):
        return ready
    place = root / peer
    last = ""
    for attempt in range(1, _TRIES + 1):
        print(f"{peer}: installing into {place} (try {attempt} of {_TRIES}) ...", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True, symlinks=True)
        pins = ["--no-deps", "--requirement", str(_pins(peer))]
        command = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode == 0:
            (place / ".made-from").write_text(_fingerprint(peer))
            return place / "bin" / "python"
        last = next((line for line in reversed(ran.stderr.splitlines()) if "ERROR" in line), ran.stderr[-300:])
    raise PeerMissing(f"{peer} could not be installed after {_TRIES} tries: {last.strip()[:300]}")


def version(peer: str) -> str:
    """The pinned version of the peer itself."""
    for line in _pins(peer).read_text().splitlines():
        name, _, number = line.partition("==")
        if name.partition("[")[0] == peer:
            return number
    raise ValueError(f"{_pins(peer).name} does not pin {peer}")


def _pins(peer: str) -> Path:
    return _PINS / f"requirements-{peer}.txt"


def _fingerprint(peer: str) -> str:
    return f"{hashlib.sha256(_pins(peer).read_bytes()).hexdigest()} {sys.version_info.major}.{sys.version_info.minor}\n"


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(
        path.stem.removeprefix("requirements-") for path in _PINS.glob("requirements-*")
    ):
        print(f"{name} {version(name)}: {ensured(name)}")
