"""How much may be uploaded: by one call, by a project, and how many artifacts are moved at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from chassis.artifacts import ArtifactStore
from chassis.clock import Clock
from lepton.errors import InvalidArgument, ResourceExhausted

_MEASURED_S: Final = 60.0
_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """0 = no limit."""

    largest_bytes: int
    project_bytes: int = 0
    transfers: int = 0


class TransferLimits:
    """Refuses what is too much; a project's use is measured once a minute, and what came since is added."""

    def __init__(self, artifacts: ArtifactStore, clock: Clock, limits: Limits) -> None:
        self._artifacts, self._clock, self._limits = artifacts, clock, limits
        self._used: dict[str, tuple[float, int]] = {}
        self._running = 0
        self._measuring = asyncio.Lock()

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[None]:
        """The time of one transfer. Raises ResourceExhausted (TOO_MANY_TRANSFERS)."""
        if 0 < self._limits.transfers <= self._running:
            raise ResourceExhausted("TOO_MANY_TRANSFERS", retry_after_s=_RETRY_S, limit=str(self._limits.transfers))
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def check_size(self, size: int) -> None:
        """Raises InvalidArgument (ARTIFACT_TOO_LARGE)."""
        if size > self._limits.largest_bytes:
            raise InvalidArgument("ARTIFACT_TOO_LARGE", limit_bytes=str(self._limits.largest_bytes))

    async def check_quota(self, project: str, more: int) -> None:
        """Raises ResourceExhausted (ARTIFACT_QUOTA_EXCEEDED) when the project would have too much."""
        limit = self._limits.project_bytes
        if limit == 0:
            return
        async with self._measuring:
            measured_at, used = self._used.get(project, (float("-inf"), 0))
            now = self._clock.monotonic()
            if now - measured_at > _MEASURED_S:
                listed = await self._artifacts.listing(project, area="")
                measured_at, used = now, sum(found.size for _, found in listed)
            if used + more > limit:
                self._used[project] = (measured_at, used)
                raise ResourceExhausted(
                    "ARTIFACT_QUOTA_EXCEEDED",
                    project=f"projects/{project}",
                    wanted_bytes=str(used + more),
                    limit_bytes=str(limit),
                )
            self._used[project] = (measured_at, used + more)
