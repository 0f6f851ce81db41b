"""The launcher of this node: warmed up when the agent starts, replaced when it has died."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from chassis.logs import logger
from services.agent.launcher import LauncherClient

log = logger(__name__)


class WarmLauncher:
    """Holds one launcher; its death ends the ranks that it started, and the next rank gets a new one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._client: LauncherClient | None = None
        self._clients = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.client()  # warms up in the background
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._clients.aclose()

    async def client(self) -> LauncherClient:
        """The launcher, perhaps not warm yet: its answers come once it is."""
        async with self._opening:
            if self._client is not None and self._client.lost.done():
                log.error("the launcher has died; starting another")
                await self._clients.aclose()
                self._client = None
            if self._client is None:
                self._client = await self._clients.enter_async_context(LauncherClient(self._environ))
            return self._client
