"""The layout of a Triton Inference Server on disk, and the environment that it must be started in."""

import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Triton:
    """The parts of a Triton that can be started as a plain subprocess."""

    server: Path
    """The `tritonserver` program."""
    backends: Path
    """The value of `--backend-directory`; its `python` folder holds the stub."""
    libs: Path
    """Shared libraries that the server and its backends load: goes into LD_LIBRARY_PATH."""
    stub: Path
    """The process that runs a Python model, built for the Python of `python_path`."""
    python_path: Path
    """Folder holding the `python3` of the stub (numpy 1.26 and onnxruntime): must come first on PATH."""

    @classmethod
    def unpacked(cls, wheel: Path, python_path: Path) -> "Triton":
        """The Triton inside an unpacked `nvidia-pytriton` wheel."""
        root = wheel / "pytriton" / "tritonserver"
        return cls._of(root, root / "bin" / "tritonserver", wheel / "nvidia_pytriton.libs", python_path)

    @classmethod
    def installed(cls, root: Path, python_path: Path) -> "Triton":
        """A full Triton in its usual layout, such as /opt/tritonserver."""
        return cls._of(root, root / "bin" / "tritonserver", root / "lib", python_path)

    @classmethod
    def _of(cls, root: Path, server: Path, libs: Path, python_path: Path) -> "Triton":
        backends = root / "backends"
        stub = backends / "python" / "triton_python_backend_stub"
        return cls(server=server, backends=backends, libs=libs, stub=stub, python_path=python_path)

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The whole environment of a server process.

        The stub embeds libpython and is started in isolated mode: it ignores PYTHONPATH and finds its packages only
        through the virtual environment whose `python3` comes first on PATH.
        """
        libpython = sysconfig.get_config_var("LIBDIR")
        return {
            "PATH": f"{self.python_path}:{environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": f"{self.libs}:{libpython}" if libpython else str(self.libs),
            "HOME": environ.get("HOME", "/"),
            "LANG": environ.get("LANG", "C.UTF-8"),
            "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", "1"),
        }
