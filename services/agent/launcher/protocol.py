"""The launcher's wire: one JSON object per packet of a unix socket, open files riding along.

agent -> launcher   {"op": "start", "id": .., "entry": .., "argv": [..], "env": {..}, "cwd": ..,
                     "confinement": {..}}
                        with stdout, stderr and the report socket as files
                    {"op": "store", "id": .., "host": ..}
                    {"op": "kill", "id": .., "signal": 9}
launcher -> agent   {"ready": pid, "seconds": ..}
                    {"started": id, "pid": ..}   {"started": id, "pid": .., "endpoint": "host:port"}
                    {"failed": id, "why": ..}
                    {"exit": id, "code": .. | null, "signal": .. | null}
"""

import errno
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

MAX_PACKET: Final = 1 << 20
_MAX_FILES: Final = 8


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, with room for packets as large as MAX_PACKET."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_PACKET)
    return ends


def send(end: socket.socket, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Sends one message; BlockingIOError when a non-blocking end is full, EMSGSIZE when it fits in no packet."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_PACKET:  # the kernel may take it, but the receiver would get a part of it
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    if files:
        socket.send_fds(end, [data], list(files))
    else:
        end.send(data)


def receive(end: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its files; None once the other side has gone."""
    data, files, _, _ = socket.recv_fds(end, MAX_PACKET, _MAX_FILES)
    return (json.loads(data) if data else None), files
