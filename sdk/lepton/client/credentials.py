"""What a client proves itself with, and where that is kept: in memory, or in a file that several processes share."""

import asyncio
import fcntl
import json
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Final, Protocol

_LOCK_RETRY_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A signed-in principal's secrets; times are Unix seconds."""

    principal: str = ""
    access_token: str = field(default="", repr=False)
    access_expires: float = 0.0
    renew_after: float = 0.0
    """From then on the access token should be renewed, although it still works."""
    refresh_token: str = field(default="", repr=False)
    refresh_expires: float = 0.0
    api_key: str = field(default="", repr=False)
    service_account: str = ""
    """Signed in as, with the ID token in `id_token_file`."""
    id_token_file: str = ""


class CredentialStore(Protocol):
    """Where a client keeps its credentials."""

    def load(self) -> Credentials:
        """What is kept; empty credentials when nothing is."""
        ...

    def save(self, credentials: Credentials) -> None:
        """Keep these instead."""
        ...

    def lock(self) -> AbstractAsyncContextManager[None]:
        """Alone while they are exchanged: a refresh token used twice ends the session."""
        ...


class MemoryCredentials:
    """Credentials that end with the process."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials or Credentials()

    def load(self) -> Credentials:
        """What is kept."""
        return self._credentials

    def save(self, credentials: Credentials) -> None:
        """Keep these instead."""
        self._credentials = credentials

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Nobody else can reach them."""
        yield


class FileCredentials:
    """Credentials in a file that only its owner may read, replaced whole and locked while they are exchanged."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Credentials:
        """What the file holds; empty when there is none or it is damaged, so that signing in again heals it."""
        try:
            document = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return Credentials()
        known = {each.name for each in fields(Credentials)}
        return Credentials(**{name: value for name, value in document.items() if name in known})

    def save(self, credentials: Credentials) -> None:
        """Replace the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, aside = tempfile.mkstemp(dir=self.path.parent, prefix=".credentials-")  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(credentials), file)
                file.flush()
                os.fsync(file.fileno())
            Path(aside).rename(self.path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """One process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # A thread that blocks in flock() could not be cancelled, and other processes set no asyncio.Event.
            while not _try_lock(descriptor):  # noqa: ASYNC110
                await asyncio.sleep(_LOCK_RETRY_S)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
