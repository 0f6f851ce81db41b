"""Passwords: Argon2id hashes, computed beside the event loop and few at a time."""

import asyncio
import secrets
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's first choice (46 MiB, one pass, one lane).
_TIME_COST: Final = 1
MEMORY_KIB: Final = 47_104
_LANES: Final = 1
_AT_ONCE: Final = 2  # each takes 46 MiB and a core


class Passwords:
    """Hashes and recognises passwords. A missing hash costs as much time as a wrong password."""

    def __init__(self, *, memory_kib: int = MEMORY_KIB) -> None:
        self._hasher = PasswordHasher(time_cost=_TIME_COST, memory_cost=memory_kib, parallelism=_LANES)
        self._nobodys = self._hasher.hash(secrets.token_urlsafe(16))
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def hash(self, password: str) -> str:
        """The PHC string to keep instead of the password."""
        async with self._slots:
            return await asyncio.to_thread(self._hasher.hash, password)  # tens of milliseconds of CPU

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether this is the password; never for None, which stands for an unknown user."""
        async with self._slots:
            matches = await asyncio.to_thread(self._matches, hashed or self._nobodys, password)
        return matches and hashed is not None

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False
