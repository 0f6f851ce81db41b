"""What the scheduler holds, as compliance looks at it: workloads that no service made, and where the pools are."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

from chassis.compliance import Compliance
from chassis.logs import logger
from lepton.compliance.rulebook import Violation
from lepton.compliance.subject import Subject
from lepton.compliance.subjects import of_workload
from lepton.errors import NotFound
from lepton.names import WorkloadName
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import ENDED
from services.scheduler.planner.verdict import GRACE_S
from services.scheduler.records import Changes
from services.scheduler.workloads import Workloads

log = logger(__name__)
_AT_ONCE: Final = 5000  # workloads that are looked at before others get the loop


class PoolLabels:
    """The labels of pools, out of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._listeners: list[Callable[[], None]] = []
        ledger.listen(self)

    @property
    def labels(self) -> Mapping[str, Mapping[str, str]] | None:
        """Of every pool, by its name; None until the ledger is known."""
        if not self._ledger.synced.is_set():
            return None
        return {name: pool.labels for name, pool in self._ledger.pools.items()}

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this when a pool has come, gone, or changed."""
        self._listeners.append(listener)

    def ledger_changed(self, changes: Changes) -> None:
        """A batch has been applied."""
        if changes.are_pools_others:
            for listener in self._listeners:
                listener()


class WorkloadInspector:
    """Workloads that no service made and that have not ended: those of services are judged by what they are for."""

    def __init__(self, ledger: Ledger, workloads: Workloads, compliance: Compliance) -> None:
        self._ledger, self._workloads, self._compliance = ledger, workloads, compliance
        self._found: dict[str, list[str]] = {}  # project -> workloads, as of the last look at all of them

    async def projects(self) -> Iterable[str]:
        """Those that have any; none while there is no policy: there may be very many workloads."""
        await self._ledger.synced.wait()
        found: dict[str, list[str]] = defaultdict(list)
        if self._compliance.rulebook.policies:
            for at, (name, record) in enumerate(list(self._ledger.workloads.items())):
                if record.proto.creator and record.value.state not in ENDED:
                    found[name.partition("/workloads/")[0]].append(name)
                if at % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        self._found = found
        return found

    async def subjects(self, project: str) -> AsyncIterator[Subject]:
        """All that is to be judged."""
        for name in self._found.get(project, ()):
            record = self._ledger.workloads.get(name)
            if record is not None and record.value.state not in ENDED:
                yield of_workload(record.proto)

    async def quarantine(self, violation: Violation) -> bool:
        """Stop a workload."""
        why = f"stopped by {violation.policy.name} (rule {violation.rule.id}): {violation.fault.problem}"
        try:
            await self._workloads.cancel(WorkloadName.parse(violation.subject.resource), GRACE_S, why[:1000])
        except NotFound:
            return False  # it was deleted meanwhile
        log.warning("workload stopped by compliance", workload=violation.subject.resource, policy=violation.policy.name)
        return True

    async def settle(self, project: str, standing: Sequence[Violation]) -> None:
        """A workload that was stopped stays stopped."""
