"""The client side of Lepton: contracts, clients, command line and training API; loads nothing before it is used."""

import os
import sys
from importlib import import_module
from typing import Any, Final

__version__: Final = "0.1.0"

# A rank forks to save checkpoints. gRPC's own handlers of a fork wait for its threads and start new ones in the child,
# where nothing speaks gRPC; it reads this variable once, when it is imported.
if "grpc" not in sys.modules:
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
FORKS_ARE_QUIET: Final = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "").lower() in {"0", "false", "no"}

_LAZY: Final = {"AsyncClient": "lepton.client", "Client": "lepton.client"}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'lepton' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
