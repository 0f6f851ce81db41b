"""The agent's line to the trainer: opens runs, and carries the journals of all ranks over one stream."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import grpc

from chassis.clock import Clock
from chassis.logs import logger
from lepton.errors import DeadlineExceeded, LeptonError, ResourceExhausted, Unavailable
from lepton.internal.v1 import run_report_pb2 as pb
from lepton.internal.v1.run_report_pb2_grpc import RunReportServiceStub
from services.agent.journal import Journal
from services.agent.race import race

log = logger(__name__)

_BATCH_S: Final = 0.02  # what a burst of lines is gathered for
_PAUSE_S: Final = 0.2  # between two bursts
_LATER_S: Final = 1.0  # for what is measured, unless something else goes before
_START_TIMEOUT_S: Final = 10.0
_START_PATIENCE_S: Final = 120.0  # a trainer that is being restarted
_TRANSIENT: Final = (Unavailable, DeadlineExceeded, ResourceExhausted)
_LAST_S: Final = 3.0
_BACKOFF_S: Final = (0.1, 2.0)


class Reporting:
    """Everything that this node tells the trainer; delivers while the block runs."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock) -> None:
        self._stub: Any = RunReportServiceStub(channel)
        self._clock = clock
        self._journals: dict[tuple[str, int, int], Journal] = {}
        self._work, self._urgent = asyncio.Event(), asyncio.Event()
        self._later: asyncio.TimerHandle | None = None

    async def start_run(self, request: pb.StartRunRequest) -> pb.StartRunResponse:
        """Ask what a generation runs; patient while the trainer is away, LeptonError when it refuses."""
        deadline = self._clock.monotonic() + _START_PATIENCE_S
        backoff_s = _BACKOFF_S[0]
        while True:
            try:
                response: pb.StartRunResponse = await self._stub.StartRun(
                    request, timeout=_START_TIMEOUT_S, wait_for_ready=True
                )
                return response
            except _TRANSIENT:
                if self._clock.monotonic() > deadline:
                    raise
            await self._clock.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
            backoff_s = min(backoff_s * 2, _BACKOFF_S[1])

    @asynccontextmanager
    async def journal(self, job: str, generation: int, rank: int) -> AsyncIterator[Journal]:
        """A rank's journal; what is not acknowledged when the block ends is still delivered."""
        key = (job, generation, rank)
        journal = self._journals[key] = Journal(
            job, generation, rank, wake=self._work.set, hurry=self._urgent.set, wake_later=self._wake_later
        )
        try:
            yield journal
        finally:
            journal.close()
            if journal.is_empty:
                del self._journals[key]

    async def __aenter__(self) -> Self:
        self._delivering = asyncio.ensure_future(self._deliver())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(_LAST_S):
                for journal in list(self._journals.values()):
                    await journal.drained()
        except TimeoutError:
            log.warning("left with events that the trainer has not stored", journals=len(self._journals))
        self._delivering.cancel()
        await asyncio.gather(self._delivering, return_exceptions=True)

    async def _deliver(self) -> NoReturn:
        backoff_s = _BACKOFF_S[0]
        while True:
            while all(journal.is_empty for journal in self._journals.values()):
                self._work.clear()
                await self._work.wait()
            began = self._clock.monotonic()
            try:
                await self._stream()
            except (LeptonError, asyncio.InvalidStateError) as error:  # the latter: written to after its end
                log.warning("the trainer's stream broke", why=str(error), journals=len(self._journals))
            backoff_s = _BACKOFF_S[0] if self._clock.monotonic() - began > 5 else min(backoff_s * 2, _BACKOFF_S[1])
            await self._clock.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311  # jitter

    async def _stream(self) -> None:
        for journal in self._journals.values():
            journal.rewind()
        self._work.set()
        stream = self._stub.ReportRun()
        try:
            await race(self._write(stream), self._read(stream))
        finally:
            stream.cancel()

    async def _read(self, stream: Any) -> None:
        async for response in stream:
            await self._acknowledge(response)

    async def _write(self, stream: Any) -> None:
        due_s = self._clock.monotonic()
        while True:
            await self._work.wait()
            if not self._urgent.is_set():  # somebody waits for the answer to what is urgent
                pause_s = max(_BATCH_S, due_s - self._clock.monotonic())
                await race(self._urgent.wait(), self._clock.sleep(pause_s))
            self._work.clear()
            self._urgent.clear()
            if self._later is not None:
                self._later.cancel()
                self._later = None
            for journal in list(self._journals.values()):
                for batch in journal.batches():
                    await stream.write(batch)
            due_s = self._clock.monotonic() + _PAUSE_S

    def _wake_later(self) -> None:
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_LATER_S, self._work.set)

    async def _acknowledge(self, response: pb.ReportRunResponse) -> None:
        key = (response.job, response.generation, response.rank)
        journal = self._journals.get(key)
        if journal is None:
            return
        for refused in response.refused:
            log.warning("event refused", job=response.job, rank=response.rank, reason=refused.reason)
        await journal.acknowledge(response.sequence, response.refused)
        if journal.is_empty and journal.is_closed:
            self._journals.pop(key, None)
