"""Passwords: Argon2id hashes, computed beside the event loop, few at a time, with a short line before them."""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from lepton.errors import ResourceExhausted

# OWASP's first choice (46 MiB, one pass, one lane).
_TIME_COST: Final = 1
MEMORY_KIB: Final = 47_104
_LANES: Final = 1
AT_ONCE: Final = 2  # each takes 46 MiB and a core
IN_LINE: Final = 64  # about three seconds of hashing; who comes then is told to come again
_RETRY_AFTER_S: Final = 1.0

T = TypeVar("T")


class Passwords:
    """Hashes and recognises passwords. A missing hash costs as much time as a wrong password.

    The limit is the pool's: a caller who gives up leaves its place in the line, but a hash that was begun goes on, and
    no other begins until it is done.
    """

    def __init__(self, *, memory_kib: int = MEMORY_KIB) -> None:
        self._hasher = PasswordHasher(time_cost=_TIME_COST, memory_cost=memory_kib, parallelism=_LANES)
        self._nobodys = self._hasher.hash(secrets.token_urlsafe(16))
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._pending = 0

    async def hash(self, password: str) -> str:
        """The PHC string to keep instead of the password. Raises ResourceExhausted (SIGN_IN_BUSY)."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether this is the password; never for None, which stands for an unknown user. Raises as `hash` does."""
        matches = await self._run(lambda: self._matches(hashed or self._nobodys, password))
        return matches and hashed is not None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._pending >= AT_ONCE + IN_LINE:
            raise ResourceExhausted("SIGN_IN_BUSY", retry_after_s=_RETRY_AFTER_S)
        self._pending += 1
        loop = asyncio.get_running_loop()
        begun = self._threads.submit(work)  # tens of milliseconds of CPU
        begun.add_done_callback(lambda _: self._end(loop))
        return await asyncio.wrap_future(begun)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the pool's thread; the loop is closed already when the service ended meanwhile."""
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        self._pending -= 1

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False
