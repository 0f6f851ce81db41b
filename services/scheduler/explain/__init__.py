"""Why a workload waits, and what if: answers from the planner itself, on a copy of the fleet, that change nothing.

It owns the questions ExplainWorkload and WhatIf; it decides nothing: `plan` does.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Final

from chassis.clock import Clock
from lepton.names import WorkloadName, not_found
from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1 import workload_pb2
from services.scheduler.explain import wire
from services.scheduler.explain.estimate import spread_of
from services.scheduler.explain.explanation import LOOKS, explain
from services.scheduler.explain.rehearsal import Budget
from services.scheduler.explain.what_if import UnknownError, outcomes
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import ENDED
from services.scheduler.snapshot import Snapshot, State

__all__ = ["Explain"]

_LATEST: Final = 20_000  # workloads among which ended ones are looked for


class Explain:
    """Answers questions, one at a time, beside the service's loop."""

    def __init__(self, ledger: Ledger, clock: Clock, fence_s: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._fence_s = fence_s
        self._one = asyncio.Semaphore(1)  # planning takes a core: more at once would take it from the leader

    async def explain(self, request: pb.ExplainWorkloadRequest) -> pb.ExplainWorkloadResponse:
        """Why a workload waits. NotFound."""
        name = str(WorkloadName.parse(request.name))
        async with self._one:
            record = self._ledger.workloads.get(name)
            if record is None:
                raise not_found(name)
            if State(record.proto.state) in ENDED:
                return _ended(record.proto, self._ledger.revision)
            revision, snapshot = self._ledger.revision, self._copy()
            spread = spread_of(self._ratios())
            # The planner is run many times over: seconds on a large fleet, which the loop cannot wait for.
            found = await asyncio.to_thread(explain, snapshot, name, self._clock.monotonic(), spread)
        return wire.response(found, record.proto, self._clock.now(), revision)

    async def what_if(self, request: pb.WhatIfRequest) -> pb.WhatIfResponse:
        """What the planner would do. NotFound; the parent's own workloads only are told of."""
        now = self._clock.now()
        changes = wire.changes_of(request, int(now.timestamp() * 1e9))
        async with self._one:
            revision, snapshot = self._ledger.revision, self._copy()
            try:
                found = await asyncio.to_thread(outcomes, snapshot, changes, self._clock.monotonic(), Budget(LOOKS))
            except UnknownError as error:
                raise not_found(error.name) from error
        prefix = "projects/" if request.parent == wire.EVERYWHERE else f"{request.parent}/"
        shown = [wire.outcome_to_proto(each) for each in found if each.workload.startswith(prefix)]
        return pb.WhatIfResponse(outcomes=shown, revision=revision)

    def _copy(self) -> Snapshot:
        """The ledger's snapshot, which shows the ledger, as one that stays as it is."""
        snapshot = self._ledger.snapshot(self._fence_s)
        return replace(
            snapshot,
            nodes=dict(snapshot.nodes),
            workloads=dict(snapshot.workloads),
            assignments=dict(snapshot.assignments),
            gone=dict(snapshot.gone),
            queues=dict(snapshot.queues),
            floating=dict(snapshot.floating),
            reservations=dict(snapshot.reservations),
            usage=dict(snapshot.usage),
        )

    def _ratios(self) -> Iterator[float]:
        """How much longer than expected those took that ended well, the latest first."""
        for record in islice(reversed(self._ledger.workloads.values()), _LATEST):
            proto = record.proto
            if proto.state == workload_pb2.Workload.SUCCEEDED and proto.expected_duration_s:
                took_ns = proto.end_time.ToNanoseconds() - proto.start_time.ToNanoseconds()
                yield took_ns / 1e9 / proto.expected_duration_s


def _ended(workload: workload_pb2.Workload, revision: int) -> pb.ExplainWorkloadResponse:
    state = workload_pb2.Workload.State.Name(workload.state)
    words = f": {workload.message}" if workload.message else ""
    return pb.ExplainWorkloadResponse(message=f"it has ended, {state}{words}", revision=revision)
