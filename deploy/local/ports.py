"""Which ports of 127.0.0.1 a stack listens on: chosen once, kept over restarts, so that addresses stay good."""

import json
import random
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HOST = "127.0.0.1"
_LOWEST: Final = 10_000
_KERNELS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES: Final = 100


class Ports:
    """The ports of a stack by name."""

    def __init__(self, numbers: dict[str, int]) -> None:
        self._numbers = numbers

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def address(self, name: str) -> str:
        """`host:port` of a name."""
        return f"{HOST}:{self._numbers[name]}"

    @classmethod
    def choose(cls, file: Path, names: Iterable[str]) -> "Ports":
        """The ports of last time where they are still free, else free ones; written to the file."""
        kept: dict[str, int] = json.loads(file.read_text()) if file.is_file() else {}
        held: list[socket.socket] = []
        numbers: dict[str, int] = {}
        try:
            for name in names:
                listener = _listen(kept[name]) if name in kept else None
                listener = listener or listen_anywhere()
                held.append(listener)
                numbers[name] = listener.getsockname()[1]
        finally:
            for listener in held:
                listener.close()
        file.write_text(json.dumps(numbers, indent=1) + "\n")
        return cls(numbers)


def listen_anywhere() -> socket.socket:
    """A listener on a port that the kernel gives to nobody by itself, as it does to each connection, once it closes."""
    chance = random.SystemRandom()
    above = int(_KERNELS.read_text().split()[0]) if _KERNELS.is_file() else 0
    for _ in range(_TRIES if above > 2 * _LOWEST else 0):
        listener = _listen(chance.randrange(_LOWEST, above))
        if listener is not None:
            return listener
    found = _listen(0)
    assert found is not None
    return found


def _listen(port: int) -> socket.socket | None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As the servers do: a connection of the last run that is still closing does not make the port unusable.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(1)
    except OSError:
        listener.close()
        if port == 0:
            raise
        return None
    return listener
