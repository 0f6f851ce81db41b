"""Where the servers are and by what secret they are known: in the store of the gang, which only its ranks can read."""

import json
import os
import secrets
import socket
from datetime import timedelta
from typing import Any, Final

from lepton.errors import DeadlineExceeded

_KEY: Final = "lepton/parameter_server/"
_WAIT: Final = timedelta(seconds=60)


def announce(store: Any, server: int, address: tuple[str, int]) -> str:
    """Tells the workers where this server listens; the secret that they will know."""
    secret = secrets.token_hex(32)
    store.set(f"{_KEY}{server}", json.dumps([*address, secret]))
    return secret


def find(store: Any, server: int, wait: timedelta = _WAIT) -> tuple[tuple[str, int], str]:
    """Address and secret of a server, once it has announced them. Raises DeadlineExceeded."""
    try:
        store.wait([f"{_KEY}{server}"], wait)
    except RuntimeError as error:  # torch's DistStoreError
        raise DeadlineExceeded("SERVERS_SILENT", server=str(server), seconds=f"{wait.total_seconds():.0f}") from error
    host, port, secret = json.loads(store.get(f"{_KEY}{server}"))
    return (host, port), secret


def own_host() -> str:
    """The address by which this machine reaches the gang's store, and so by which the other ranks reach it."""
    master, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with socket.create_connection((master, port), timeout=10) as connection:
        return str(connection.getsockname()[0])
