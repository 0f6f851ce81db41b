"""Keeps a gateway's access log within bounds: a full file is set aside, the oldest is overwritten, no line is lost.

Envoy writes and never looks how much; it opens its file anew when it is asked to. What it has not written yet goes to
the new file.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chassis.clock import Clock
from chassis.logs import logger
from services.inference.envoy.admin import EnvoyAdmin

log = logger(__name__)
_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRotation:
    """The access log of one gateway and its earlier files: `access.log.1` is the latest of them."""

    path: Path
    admin: EnvoyAdmin
    clock: Clock
    file_bytes: int
    files: int
    """How many earlier ones are kept."""

    async def run(self) -> None:
        """Looks again and again, for ever."""
        while True:
            try:
                await self.turn()
            except OSError as error:  # Envoy is away; it opens the file when it starts
                log.info("the access log was not opened anew", error=str(error))
            await self.clock.sleep(_EVERY_S)

    async def turn(self) -> None:
        """Sets a full file aside. Raises OSError when Envoy cannot be told; the next turn tells it then."""
        await asyncio.to_thread(self._set_aside)
        if not self.path.exists() and self._earlier(1).exists():
            await self.admin.reopen_logs()

    def _set_aside(self) -> None:
        if not self.path.exists() or self.path.stat().st_size < self.file_bytes:
            return
        for number in range(self.files - 1, 0, -1):
            if self._earlier(number).exists():
                self._earlier(number).rename(self._earlier(number + 1))
        self.path.rename(self._earlier(1))

    def _earlier(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
