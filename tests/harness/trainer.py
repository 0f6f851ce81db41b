"""A scripted trainer: the real report protocol, everything kept in memory, and once even when it comes twice."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

from lepton.errors import FailedPrecondition
from lepton.internal.v1 import run_report_pb2 as pb
from lepton.internal.v1.run_report_pb2_grpc import RunReportServiceServicer

Key = tuple[str, int, int]


class ScriptedTrainer(RunReportServiceServicer):
    """Remembers every event by job, generation and rank."""

    def __init__(self) -> None:
        self.runs: dict[str, pb.StartRunResponse] = {}
        self.started: list[pb.StartRunRequest] = []
        self.traceparents: list[str] = []
        self.events: dict[Key, list[pb.RunEvent]] = defaultdict(list)
        self.gaps: list[str] = []
        self.repeated = 0
        self.refuses: Callable[[pb.RunEvent], str] = lambda _: ""
        self._changed = asyncio.Condition()

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.StartRunResponse:
        self.started.append(request)
        self.traceparents.append(dict(context.invocation_metadata()).get("traceparent", ""))
        if request.job not in self.runs:
            raise FailedPrecondition("JOB_ENDED", job=request.job)
        return self.runs[request.job]

    async def ReportRun(
        self, requests: AsyncIterator[pb.ReportRunRequest], context: Any
    ) -> AsyncIterator[pb.ReportRunResponse]:
        async for request in requests:
            stored = self.events[request.job, request.generation, request.rank]
            refused = []
            for event in request.events:
                if event.sequence <= len(stored):
                    self.repeated += 1
                    continue
                if event.sequence != len(stored) + 1:
                    self.gaps.append(f"rank {request.rank}: {event.sequence} after {len(stored)}")
                stored.append(event)
                if reason := self.refuses(event):
                    refused.append(pb.RefusedEvent(sequence=event.sequence, reason=reason, message="a test says so"))
            async with self._changed:
                self._changed.notify_all()
            yield pb.ReportRunResponse(
                job=request.job,
                generation=request.generation,
                rank=request.rank,
                sequence=len(stored),
                refused=refused,
            )

    def lines(self, job: str, rank: int, generation: int = 1) -> list[str]:
        """What a rank printed."""
        return [event.output.text for event in self.events[job, generation, rank] if event.HasField("output")]

    async def until(self, condition: Callable[[], object], deadline_s: float = 30.0) -> None:
        """Returns once the condition, looked at after everything that agents report, holds."""
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(lambda: bool(condition()))
        except TimeoutError:
            raise AssertionError(f"not within {deadline_s} s; events: {dict(self.events)}") from None
