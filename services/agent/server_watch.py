"""Sees when a server that is ready must be replaced, should be, or may go."""

import asyncio
import random
from typing import Final

from chassis.logs import logger
from lepton.golden import Outcome
from services.agent.charge import Charge
from services.agent.race import race
from services.agent.replica_settings import ReplicaSettings
from services.agent.triton_memory import Growth
from services.agent.triton_server import ServerFailed, TritonServer
from services.agent.triton_tls import ServerTls, ServingCertificate

log = logger(__name__)
_PROBE_ROWS: Final = 4


class ServerWatch:
    """One server under observation: the longer questions return, or raise, when their answer has become yes."""

    def __init__(
        self,
        server: TritonServer,
        charge: Charge,
        settings: ReplicaSettings,
        certificate: ServingCertificate | None,
        tls: ServerTls | None,
    ) -> None:
        self._server, self._charge, self._settings = server, charge, settings
        self._certificate, self._tls = certificate, tls
        self._random = random.Random()  # noqa: S311 (which samples a probe takes)

    async def failed(self) -> None:
        """Raises ServerFailed once the server must be replaced."""
        await race(self._probe(), self._server.ended())
        raise ServerFailed(f"tritonserver ended with {await self._server.ended()}: {self._server.last_words()}")

    async def outgrown(self, growth: Growth) -> None:
        """Returns once the server's memory has grown beyond its limit, and stays so."""
        while not growth.is_leak:
            await asyncio.sleep(self._settings.memory_interval_s)
            memory = await asyncio.to_thread(self._server.memory)
            growth = growth.read(memory, asyncio.get_running_loop().time())
        log.warning("server is replaced", why=str(growth), endpoint=self._server.endpoint)

    async def expired(self) -> None:
        """Returns once the server's certificate is old, or the roots that it trusts are not those of now."""
        while self._certificate is None or self._tls is None:
            await asyncio.Event().wait()  # for ever
        while True:
            await asyncio.sleep(self._settings.certificate_interval_s)
            if self._certificate.is_stale(self._tls.credentials):
                break
        log.info("server is replaced", why="its certificate or its roots are old", endpoint=self._server.endpoint)

    async def quiet(self, quiet_s: float) -> None:
        """Returns once nothing has been asked of a server for a while, or when it has been waited for long enough."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_s
        seen, since = await self._calls(), loop.time()
        while loop.time() < end and loop.time() - since < quiet_s:
            await asyncio.sleep(min(0.1, quiet_s / 4))
            calls = await self._calls()
            if calls != seen:
                seen, since = calls, loop.time()

    async def growth(self) -> Growth:
        """Measured from here on."""
        memory = await asyncio.to_thread(self._server.memory)
        now = asyncio.get_running_loop().time()
        return Growth(limit=self._settings.leak, baseline_bytes=memory, started_s=now)

    async def _probe(self) -> None:
        """Golden inference again and again, for a server that hangs still accepts connections."""
        failed = 0
        while True:
            await asyncio.sleep(0.1 if failed else self._settings.check_interval_s)
            failure, is_final = await self._check()
            failed = failed + 1 if failure else 0
            if failure and (is_final or failed >= self._settings.failed_checks):
                raise ServerFailed(failure)

    async def _check(self) -> tuple[str, bool]:
        for model in self._charge.models:
            few = model.golden.shuffled(_PROBE_ROWS, self._random)
            verdict = await self._server.prove(model.name, few, deadline_s=self._settings.check_s)
            if not verdict.passed:
                failure = f"liveness of {model.name}: {verdict.outcome}: {verdict.detail}"
                return failure, verdict.outcome in (Outcome.MISMATCHED, Outcome.MALFORMED)
        return "", False

    async def _calls(self) -> dict[str, int]:
        try:
            return await self._server.calls(deadline_s=self._settings.check_s)
        except ServerFailed:
            return {}  # it has ended by itself, or hangs: nobody is waited for
