"""An auditor of the scheduler: follows etcd, revision by revision, and writes down whatever must never be there."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import aclosing

from chassis.kv import KV, Event, follow
from lepton.internal.v1 import ledger_pb2
from lepton.scheduler.v1 import workload_pb2
from services.scheduler import keys

Slice = workload_pb2.Slice
FINAL = frozenset({Slice.SUCCEEDED, Slice.FAILED, Slice.STOPPED, Slice.LOST})


class Auditor:
    """Knows nothing of the scheduler's own state: only documents, as anybody may read them."""

    def __init__(self, kv: KV) -> None:
        self.violations: list[str] = []
        self.states: dict[str, int] = {}  # workload -> its newest state
        self.generations: dict[str, int] = {}  # workload -> its highest generation
        self.changed = asyncio.Condition()
        self._kv = kv
        self._assignments: dict[str, ledger_pb2.Assignment] = {}
        self._ended: set[str] = set()

    async def run(self) -> None:
        """Look at every revision, for ever."""
        async with aclosing(follow(self._kv, keys.ROOT)) as batches:
            async for batch in batches:
                revisions: dict[int, list[Event]] = defaultdict(list)
                for event in batch.events:
                    revisions[event.revision].append(event)
                for revision in sorted(revisions):
                    self._apply(revisions[revision])
                async with self.changed:
                    self.changed.notify_all()

    async def until(self, names: Iterable[str], state: int, deadline_s: float = 60.0) -> None:
        """Wait until all these workloads are in a state."""
        missing = set(names)

        def are_there() -> bool:
            missing.difference_update([name for name in missing if self.states.get(name) == state])
            return not missing

        try:
            async with asyncio.timeout(deadline_s), self.changed:
                await self.changed.wait_for(are_there)
        except TimeoutError:
            some = {name: self.states.get(name) for name in sorted(missing)[:5]}
            raise AssertionError(f"{len(missing)} workloads are not in state {state}, among them {some}") from None

    def _apply(self, events: list[Event]) -> None:
        is_placing = False
        for event in events:
            kind, _, rest = event.key.removeprefix(keys.ROOT).partition("/")
            if kind == "workloads":
                self._workload(rest, event)
            elif kind == "assignments" and event.entry is None:
                self._assignments.pop(rest, None)
            elif kind == "assignments" and event.entry is not None:
                self._assignments[rest] = assignment = ledger_pb2.Assignment.FromString(event.entry.value)
                highest = self.generations.get(assignment.workload, 0)
                self.generations[assignment.workload] = max(highest, assignment.generation)
                is_placing = True
            elif kind == "statuses" and event.entry is not None:
                if Slice.FromString(event.entry.value).state in FINAL:
                    self._ended.add(rest)
                else:
                    self._ended.discard(rest)
        if is_placing:
            self._check_devices(events[0].revision)

    def _workload(self, rest: str, event: Event) -> None:
        project, _, workload_id = rest.partition("/")
        name = f"projects/{project}/workloads/{workload_id}"
        if event.entry is None:
            self.states.pop(name, None)
        else:
            self.states[name] = workload_pb2.Workload.FromString(event.entry.value).state

    def _check_devices(self, revision: int) -> None:
        held: dict[tuple[str, int], str] = {}
        for key, assignment in self._assignments.items():
            for each in assignment.slices:
                if f"{key}/{each.index:05d}" in self._ended:
                    continue
                for device in each.devices:
                    other = held.setdefault((each.node, device), assignment.workload)
                    if other != assignment.workload:
                        self.violations.append(
                            f"revision {revision}: device {device} of {each.node} is held by {other}"
                            f" and by {assignment.workload}"
                        )
