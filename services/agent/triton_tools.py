"""Owns where Triton lies on a machine, and what its command line asks of it."""

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.agent.served_model import ServedModel

_CACHE_BYTES: Final = 64 << 20
"""Of the response cache of one server; it is taken at its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonTools:
    """Where Triton lies on this machine; `python_path` is the folder of the `python3` that its stubs run in."""

    server: Path
    backends: Path
    libs: Path
    python_path: Path

    def environment(self, devices: Sequence[str] = ()) -> dict[str, str]:
        """The whole environment of a server with these accelerators: nothing of the agent's own gets in."""
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(devices),
            "PATH": f"{self.python_path}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": ":".join(map(str, [self.libs, *_LIBPYTHON])),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }


def server_options(tools: TritonTools, models: Sequence[ServedModel]) -> list[str]:
    """The command-line options that the models' configurations ask of their server.

    The pool of a rate limiter's resource is what the largest taker of it needs: whoever shares it takes turns.
    """
    configs = [model.config() for model in models]
    options: list[str] = []
    if any(config.response_cache.enable for config in configs):
        options += [
            f"--cache-config=local,size={_CACHE_BYTES}",
            f"--cache-directory={tools.backends.parent / 'caches'}",
        ]
    resources = [
        resource for config in configs for group in config.instance_group for resource in group.rate_limiter.resources
    ]
    if resources:
        options.append("--rate-limit=execution_count")
        for name in sorted({resource.name for resource in resources}):
            pool = max(resource.count for resource in resources if resource.name == name)
            options.append(f"--rate-limit-resource={name}:{pool}")
    return options


def _libpython() -> list[Path]:
    folder = sysconfig.get_config_var("LIBDIR")
    return [Path(folder)] if folder else []


_LIBPYTHON: Final = _libpython()
