"""The client side of Lepton: contracts, clients, command line and training API; loads nothing before it is used."""

from importlib import import_module
from typing import Any, Final

__version__: Final = "0.1.0"

_LAZY: Final = {"AsyncClient": "lepton.client", "Client": "lepton.client"}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'lepton' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
