"""What this node's Triton can run: its backends, the packages of its Python environment, its TensorRT."""

import hashlib
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from lepton.repository import CPU, Offer
from services.agent.config import TritonPaths
from services.agent.triton_tools import TritonTools

LABEL: Final = "triton.lepton.dev"
"""Labels of nodes: `/backend.NAME` = `yes`, `/tensorrt`, `/torch` and `/onnxruntime` = the version."""
_LONGEST: Final = 32
_TOLD: Final = ("onnxruntime", "torch")
_INSTALLED: Final = re.compile(r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[0-9][^-]*)\.dist-info")
_TENSORRT: Final = re.compile(r"libnvinfer\.so\.(?P<version>[0-9]+\.[0-9]+\.[0-9]+)")
_SYSTEM: Final = (
    Path("/usr/lib/x86_64-linux-gnu"),
    Path("/usr/lib/aarch64-linux-gnu"),
    Path("/usr/local/tensorrt/lib"),
)


def tools(paths: TritonPaths | None) -> TritonTools | None:
    """Where Triton lies, if it does."""
    if paths is None:
        return None
    return TritonTools(server=paths.server, backends=paths.backends, libs=paths.libs, python_path=paths.python_path)


def offer(tools: TritonTools, device: str = "") -> Offer:
    """What it offers a server with devices of that class; looks at files only, nothing is started."""
    return Offer(
        backends=frozenset(_backends(tools.backends)),
        packages=_packages(tools.python_path),
        tensorrt=_tensorrt((tools.libs, tools.backends / "tensorrt", *_SYSTEM)),
        device=device,
    )


def device_classes(indices: Iterable[int], models: Mapping[int, str]) -> str:
    """A pattern of the device classes whose engines a server with these devices can run.

    Engines' keys name a GPU by its model and compute capability (which follows from the model), a processor by its
    architecture and a digest of all its instruction sets. Different GPUs in one server: no engine is for both.
    """
    found = {models[index] for index in indices if index in models}
    if not found:
        return f"{CPU}-{_word(platform.machine())}-*-{_instruction_sets()}"
    return f"{f'nvidia-{_word(found.pop())}-sm'[:_LONGEST]}*" if len(found) == 1 else ""


def labels(offered: Offer) -> dict[str, str]:
    """The node's labels, by which pools and workloads may ask for it."""
    told = {f"{LABEL}/backend.{backend}": "yes" for backend in offered.backends}
    told.update({f"{LABEL}/{name}": offered.packages[name] for name in _TOLD if name in offered.packages})
    return {**told, f"{LABEL}/tensorrt": offered.tensorrt} if offered.tensorrt else told


def _word(text: str) -> str:
    """As keys of engines spell names."""
    return re.sub(r"[^a-z0-9.+-]+", "-", text.lower())[:_LONGEST].strip("-.+")


def _instruction_sets() -> str:
    """The digest by which keys of engines for processors tell them apart."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return hashlib.sha256(flags.encode()).hexdigest()[:8]


def _backends(folder: Path) -> list[str]:
    """A backend is a folder with its library, or with a model.py where it is written in Python."""
    if not folder.is_dir():
        return []
    return [
        each.name
        for each in folder.iterdir()
        if (each / f"libtriton_{each.name}.so").exists() or (each / "model.py").exists()
    ]


def _packages(python_path: Path) -> dict[str, str]:
    found = {}
    for folder in python_path.parent.glob("lib/python3*/site-packages/*.dist-info"):
        if match := _INSTALLED.fullmatch(folder.name):
            found[match["name"].lower().replace("_", "-")] = match["version"].partition("+")[0]
    return found


def _tensorrt(folders: Iterable[Path]) -> str:
    for folder in folders:
        for library in sorted(folder.glob("libnvinfer.so.*")):
            if match := _TENSORRT.fullmatch(library.name):
                return match["version"]
    return ""
