"""Samples the fleet every ten seconds, and answers how something of it is used."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from chassis import telemetry
from chassis.call import Principal, current_call
from chassis.clock import Clock
from lepton.errors import InvalidArgument
from lepton.names import NodeName, PoolName, ProjectName, QueueName, ResourceName, not_found
from lepton.scheduler.v1 import planning_service_pb2 as pb
from services.scheduler.discretion import Scopes
from services.scheduler.ledger import Ledger
from services.scheduler.snapshot import Snapshot
from services.scheduler.utilization.amounts import MEASURED, RESOURCES
from services.scheduler.utilization.answer import answer
from services.scheduler.utilization.bounds import bounds
from services.scheduler.utilization.history import Grain, History
from services.scheduler.utilization.measured import Measured
from services.scheduler.utilization.tally import Tally

EVERY_S: Final = 10.0
_FINE: Final = (Grain(step_s=10, count=360), Grain(step_s=60, count=1440), Grain(step_s=600, count=1008))
_COARSE: Final = (Grain(step_s=60, count=60), Grain(step_s=600, count=144))
_HOUR_S: Final = 3600.0
_TOGETHER: Final = 1000  # workloads that are summed up before others have their turn

SAMPLES = telemetry.histogram("scheduler_utilization_sample_seconds", "Time that one sample of the fleet's use took")

T = TypeVar("T")


class Access(Scopes, Protocol):
    """Says who may see what."""

    def require(self, principal: Principal, permission: str, resource: str) -> None:
        """Raise what a caller who is not allowed must hear."""
        ...


class Utilization:
    """The use of pools, nodes, queues and projects, as this replica has seen it since it began."""

    def __init__(self, ledger: Ledger, measured: Measured, access: Access | None, clock: Clock) -> None:
        self._ledger = ledger
        self._measured = measured
        self._access = access
        self._clock = clock
        whole, node = 2 * len(RESOURCES) + MEASURED, len(RESOURCES) + MEASURED
        # At the most 135 KB for each pool, queue and project, and 6 KB for each node.
        self._histories: Mapping[str, History] = {
            "pools": History(_FINE, whole, limit=256),
            "queues": History(_FINE, whole, limit=512),
            "projects": History(_FINE, whole, limit=512),
            "nodes": History(_COARSE, node, limit=16384),
        }

    async def run(self) -> None:
        """Sample for ever."""
        await self._ledger.synced.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measured.follow())
            while True:
                await self.sample()
                await self._measured.tell()
                await self._clock.sleep(EVERY_S)

    async def sample(self) -> None:
        """Record how the fleet is used now. Others have their turn in between: a large fleet takes a while."""
        at, started = self._clock.now().timestamp(), self._clock.monotonic()
        snapshot = self._ledger.snapshot(0.0)
        # It shows the ledger as that moves on; what is sampled must stay as it is to the end.
        snapshot = replace(snapshot, nodes=dict(snapshot.nodes), queues=dict(snapshot.queues))
        tally = Tally(snapshot, self._measured.now())
        for workloads in _parts(list(snapshot.workloads.values())):
            tally.wait(workloads)
            await asyncio.sleep(0)
        for assignments in _parts(list(snapshot.assignments.items())):
            tally.hold(assignments)
            await asyncio.sleep(0)
        for _ in tally.finish():
            await asyncio.sleep(0)
        self._record(at, snapshot, tally)
        await asyncio.sleep(0)
        nodes = {name: tally.node_values(name) for name in list(snapshot.nodes)}
        await asyncio.sleep(0)
        self._histories["nodes"].record(at, nodes)
        SAMPLES.observe(self._clock.monotonic() - started)

    async def get(self, request: pb.GetUtilizationRequest) -> pb.GetUtilizationResponse:
        """How something is used. Raises NotFound for what does not exist, and for projects of others."""
        kind, capacity = self._find(request.name)
        now = self._clock.now().timestamp()
        start = request.start_time.ToNanoseconds() / 1e9 if request.HasField("start_time") else now - _HOUR_S
        if start > now:
            raise InvalidArgument("INVALID_FIELD", fields={"start_time": "must lie in the past"})
        read = self._histories[kind].read(request.name, start, now, request.step_s)
        return answer(request.name, capacity, read)

    def _find(self, name: str) -> tuple[str, Sequence[float]]:
        """The kind of what is asked for, and how much it has."""
        ledger = self._ledger
        snapshot = Snapshot(
            pools=frozenset(ledger.pools),
            nodes={node: record.value for node, record in ledger.nodes.items()},
            queues={queue: record.value for queue, record in ledger.queues.items()},
        )
        kind = name.partition("/")[0]
        parsed: ResourceName
        match kind:
            case "pools" if "/nodes/" in name:
                kind, parsed, exists = "nodes", NodeName.parse(name), name in snapshot.nodes
            case "pools":
                parsed, exists = PoolName.parse(name), name in snapshot.pools
            case "queues":
                parsed, exists = QueueName.parse(name), name in snapshot.queues
            case "projects":
                parsed, exists = ProjectName.parse(name), self._is_visible(name)
            case _:
                raise InvalidArgument(
                    "INVALID_FIELD", fields={"name": "must be of a pool, a node, a queue or a project"}
                )
        if not exists and (kind != "nodes" or name not in self._histories["nodes"]):
            raise not_found(parsed)
        return kind, bounds(name, snapshot)

    def _is_visible(self, project: str) -> bool:
        """Whether the caller may know of the project; who may know of it but not read it hears so."""
        call = current_call()
        principal = call.principal if call is not None else None
        if principal is None or principal.is_peer or self._access is None:
            return False
        self._access.require(principal, "projects.get", project)
        return True

    def _record(self, at: float, snapshot: Snapshot, tally: Tally) -> None:
        projects = {name for name in (*tally.allocated, *tally.wanted) if name.startswith("projects/")}
        for kind, names in (("pools", snapshot.pools), ("queues", snapshot.queues)):
            self._histories[kind].record(at, {name: tally.values(name) for name in sorted(names)})
        idle = [0.0] * (2 * len(RESOURCES) + MEASURED)
        self._histories["projects"].record(at, {name: tally.values(name) for name in sorted(projects)}, idle)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _TOGETHER):
        yield items[start : start + _TOGETHER]
