"""How long and in which rhythm a client goes on trying when a server does not answer."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from lepton.errors import LeptonError, Unavailable

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
_PASSING: Final = frozenset({"RATE_LIMITED", "SIGN_IN_BUSY", "TOO_MANY_TRANSFERS", "WRITE_CONFLICT"})
OnRetry = Callable[[LeptonError], None]


def is_passing(error: LeptonError) -> bool:
    """Whether the same call may succeed a little later, unchanged."""
    return isinstance(error, Unavailable) or error.reason in _PASSING


class Patience:
    """Bears failures for `patience_s` since the last progress, pausing longer each time."""

    def __init__(self, patience_s: float, on_retry: OnRetry | None = None) -> None:
        self._patience_s, self._on_retry = patience_s, on_retry
        self._ends_at: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def progress(self) -> None:
        """The server answered: a later failure is a new one."""
        self._ends_at, self._pause_s = None, FIRST_PAUSE_S

    async def bear(self, error: LeptonError) -> None:
        """Pause after a failure; raises it when patience is at its end."""
        now = time.monotonic()
        if self._ends_at is None:
            self._ends_at = now + self._patience_s
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
        if error.reason == "RATE_LIMITED":
            pause_s = max(pause_s, error.retry_after_s or 0.0)
        if now + pause_s > self._ends_at:
            raise error
        if self._on_retry is not None:
            self._on_retry(error)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        await asyncio.sleep(pause_s)
