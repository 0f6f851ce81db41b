"""The secrets of an array's tasks: fetched once for a generation, the same for all of them."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from chassis.logs import logger
from lepton.errors import LeptonError
from lepton.scheduler.v1.program_pb2 import SecretMount
from services.agent.secrets import Given, Secrets

log = logger(__name__)
_NOTHING: Final = Given()
_LINGER_S: Final = 20.0  # tasks that run one after the other do not fetch them each


class ArraySecrets:
    """Those of one generation of one array here."""

    def __init__(
        self, secrets: Secrets, mounts: Sequence[SecretMount], *, workload: str, workload_uid: str, generation: int
    ) -> None:
        self.uid, self._secrets, self._mounts = workload_uid, secrets, mounts
        self._of = (workload, workload_uid, generation)
        self._fetching: asyncio.Task[None] | None = None
        self._held = contextlib.ExitStack()
        self.given = _NOTHING
        self.is_ready = not mounts
        self.refusal = ""  # why tasks cannot be started
        self.users = 0  # tasks that have begun and not ended

    def fetch(self, then: Callable[[], None]) -> None:
        """Begin to fetch them, unless they are there or on their way; `then` is called when it is settled."""
        if self.is_ready or self._fetching is not None:
            return
        self._fetching = asyncio.create_task(self._fetch())
        self._fetching.add_done_callback(lambda done: None if done.cancelled() else then())

    def release(self) -> None:
        """A task has ended; if none begins within a while, they are forgotten."""
        self.users -= 1
        if not self.users and self._mounts:
            asyncio.get_running_loop().call_later(_LINGER_S, self._close_unused)

    def close(self) -> None:
        """Forget them; they can be fetched again."""
        if self._fetching is not None:
            self._fetching.cancel()
            self._fetching = None
        self._held.close()
        if self._mounts:
            self.given, self.is_ready, self.refusal = _NOTHING, False, ""

    def _close_unused(self) -> None:
        if not self.users:
            self.close()

    async def _fetch(self) -> None:
        workload, uid, generation = self._of
        try:
            fetched = await self._secrets.fetch(
                self._mounts, workload=workload, workload_uid=uid, generation=generation
            )
            self.given = self._held.enter_context(self._secrets.lay_out(fetched, f"{uid}.{generation}"))
        except (LeptonError, OSError) as error:
            self.refusal = f"cannot start: {error}"
            log.warning("secrets of an array", workload=workload, generation=generation, why=str(error))
        self.is_ready = True
