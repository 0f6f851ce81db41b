"""The rendezvous store of a gang: a torch TCPStore in a process of its own, listening on one address only."""

import signal
import socket
from typing import NoReturn


def listen(host: str) -> socket.socket:
    """A listening socket on a free port of `host`; connections queue until the store takes them over."""
    return socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)


def endpoint(listener: socket.socket) -> str:
    """The `host:port` at which ranks find the store."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run_store(listener_fd: int) -> NoReturn:
    """Serves the store on the listening socket until the process is killed."""
    from torch._C._distributed_c10d import TCPStore  # already imported by the launcher

    listener = socket.socket(fileno=listener_fd)
    host, port = listener.getsockname()[:2]
    store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    while store is not None:
        signal.pause()
    raise AssertionError("unreachable")
