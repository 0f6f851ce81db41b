"""How ranks tell each other small things in the background: a board that all of them read and write.

It is the store that the gang has met through, never a collective: those belong to the training thread.
"""

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, Protocol

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from lepton.errors import DeadlineExceeded, FailedPrecondition
from lepton.train.environment import RankEnvironment

_FIRST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.05


class Board(Protocol):
    """Keys that are written once and waited for."""

    def post(self, key: str, value: bytes) -> None:
        """Writes a key."""
        ...

    def take(self, key: str, timeout_s: float) -> bytes:
        """The key's value once somebody has written it. Raises DeadlineExceeded."""
        ...


class LocalBoard:
    """The board of a rank that is alone."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def post(self, key: str, value: bytes) -> None:
        """Writes a key."""
        self._values[key] = value

    def take(self, key: str, timeout_s: float) -> bytes:
        """The key's value; nobody else can write it, so there is nothing to wait for."""
        if key not in self._values:
            raise DeadlineExceeded("RANKS_SILENT", key=key, seconds="0")
        return self._values[key]


class StoreBoard:
    """The board of a gang, on a connection of its own to the gang's store."""

    def __init__(self, store: Any, prefix: str, pause: Callable[[float], None] = time.sleep) -> None:
        self._store, self._prefix, self._pause = store, prefix, pause

    def post(self, key: str, value: bytes) -> None:
        """Writes a key."""
        self._store.set(self._prefix + key, value)

    def take(self, key: str, timeout_s: float) -> bytes:
        """The key's value. Asked for again and again: a wait inside the store could not be given up."""
        name, end, pause_s = self._prefix + key, time.monotonic() + timeout_s, _FIRST_PAUSE_S
        while not self._store.check([name]):
            if time.monotonic() >= end:
                raise DeadlineExceeded("RANKS_SILENT", key=key, seconds=f"{timeout_s:.0f}")
            self._pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return bytes(self._store.get(name))

    def forget(self, keys: Sequence[str], count: str, readers: int) -> None:
        """Deletes keys once so many ranks have said, by the key `count`, that they need them no more."""
        if self._store.add(self._prefix + count, 1) == readers:
            for key in (*keys, count):
                self._store.delete_key(self._prefix + key)


def gang_store(environment: RankEnvironment) -> Any:
    """A connection of one's own to the store of the gang; None for a rank that is alone.

    Raises FailedPrecondition where several ranks have not met yet.
    """
    if environment.world_size == 1:
        return None
    if dist.is_available() and dist.is_initialized():
        store: Any = dist.distributed_c10d._get_default_store()  # noqa: SLF001  # there is no public way to it
        return store.clone()
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and host and port:
        return TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=60))
    raise FailedPrecondition("GANG_NOT_JOINED")
