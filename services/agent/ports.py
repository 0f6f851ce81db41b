"""Ports on the loopback address for servers that this agent starts."""

import socket


class Port:
    """A port on the loopback address that is ours before its server starts and after it ended.

    The socket is bound and never listens; only a server that shares ports, as ours does, can take the same one.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """It is anybody's from now on."""
        self._socket.close()


def free_port() -> int:
    """One that is free just now, for a server that cannot share."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
