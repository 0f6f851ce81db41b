"""Compliance afterwards: what exists is judged again and again, acted on by the policy's remedy, and told to auth."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

from chassis.app import App
from chassis.clock import Clock, wait_for_event
from chassis.compliance import Compliance
from chassis.kv import KVError
from chassis.logs import logger
from chassis.pool_board import PoolBoard
from lepton.auth.v1.compliance_pb2 import ComplianceFinding
from lepton.compliance.rulebook import Violation
from lepton.compliance.subject import Subject
from lepton.errors import LeptonError
from lepton.internal.v1.compliance_feed_pb2 import ReportFindingsRequest
from lepton.internal.v1.compliance_feed_pb2_grpc import ComplianceFeedServiceStub

log = logger(__name__)
_MOST: Final = 500  # findings of a project in one report: they are one document in the store
_TELL_AGAIN_S: Final = 600.0  # so that auth knows that somebody still looks


class Inspector(Protocol):
    """What exists in a service, and how it is taken out of service. Every method may be called again."""

    async def projects(self) -> Iterable[str]:
        """The projects (`projects/{project}`) that have anything."""
        ...

    def subjects(self, project: str) -> AsyncIterator[Subject]:
        """All that is to be judged in a project."""
        ...

    async def quarantine(self, violation: Violation) -> bool:
        """Take the subject out of service; False when that is not possible, and it can only be reported."""
        ...

    async def settle(self, project: str, standing: Sequence[Violation]) -> None:
        """Let back what was taken out of service and does no longer have to be."""
        ...


class Reporter(Protocol):
    """Where findings go."""

    async def report(self, request: ReportFindingsRequest) -> None:
        """All that is found in a project."""
        ...


class FeedReporter:
    """Auth, over the mesh."""

    def __init__(self, channel: Any) -> None:
        self._stub = ComplianceFeedServiceStub(channel)

    async def report(self, request: ReportFindingsRequest) -> None:
        """All that is found in a project."""
        await self._stub.ReportFindings(request)


class ComplianceWatch:
    """Looks at everything every so often, and at once when policies or pools change. Several may do so at once."""

    def __init__(
        self, compliance: Compliance, inspector: Inspector, reporter: Reporter, clock: Clock, *, every_s: float
    ) -> None:
        self._compliance, self._inspector, self._reporter = compliance, inspector, reporter
        self._clock, self._every_s = clock, every_s
        self._told: dict[str, tuple[float, bytes]] = {}  # project -> when, what
        self._has_looked = False
        self._changed = asyncio.Event()
        compliance.on_change(self._changed.set)

    def look_again(self) -> None:
        """Something has changed that rules go by."""
        self._changed.set()

    async def run(self) -> None:
        """Look for ever, from when the policies are known: until then none is in force, and all would be let back."""
        await self._compliance.ready.wait()
        while True:
            self._changed.clear()
            try:
                await self.round()
            except (LeptonError, KVError, OSError) as error:
                log.warning("compliance was not looked at; it is tried again", why=str(error))
            await wait_for_event(self._changed, self._every_s, self._clock)

    async def round(self) -> int:
        """Look once; how many findings there are."""
        count, is_first = 0, not self._has_looked
        for project in sorted({*await self._inspector.projects(), *self._told}):
            if self._is_governed(project):
                count += await self._look_at(project)
            elif is_first or project in self._told:  # a policy may have gone while nobody looked
                await self._inspector.settle(project, ())
                if project in self._told:
                    await self._tell(project, self._compliance.revision, ())
        self._has_looked = True
        return count

    def _is_governed(self, project: str) -> bool:
        return any(True for _ in self._compliance.rulebook.in_force(project))

    async def _look_at(self, project: str) -> int:
        revision, violations = self._compliance.revision, list[Violation]()
        async with aclosing(self._inspector.subjects(project)) as subjects:  # type: ignore[type-var]
            async for subject in subjects:
                violations += self._compliance.judge(subject)
        actions = await self._act(violations)
        await self._inspector.settle(project, violations)
        findings = {each.name: each for each in map(_finding, violations, actions)}
        await self._tell(project, revision, sorted(findings.values(), key=_order))
        return len(findings)

    async def _act(self, violations: Sequence[Violation]) -> "list[ComplianceFinding.Action.ValueType]":
        done: defaultdict[str, bool | None] = defaultdict(lambda: None)  # once for each resource
        actions = []
        for each in violations:
            if each.is_quarantined and done[each.subject.resource] is None:
                done[each.subject.resource] = await self._inspector.quarantine(each)
            is_out = each.is_quarantined and done[each.subject.resource]
            actions.append(ComplianceFinding.QUARANTINED if is_out else ComplianceFinding.REPORTED)
        return actions

    async def _tell(self, project: str, revision: int, findings: Sequence[ComplianceFinding]) -> None:
        request = ReportFindingsRequest(
            parent=project, findings=findings[:_MOST], omitted=max(0, len(findings) - _MOST)
        )
        content, now = request.SerializeToString(deterministic=True), self._clock.monotonic()
        before = self._told.get(project)
        if before is not None and before[1] == content and now - before[0] < _TELL_AGAIN_S:
            return
        request.policy_revision = revision
        await self._reporter.report(request)
        if self._is_governed(project):
            self._told[project] = (now, content)
        else:
            self._told.pop(project, None)


def _finding(violation: Violation, action: "ComplianceFinding.Action.ValueType") -> ComplianceFinding:
    return violation.finding(action)


def _order(finding: ComplianceFinding) -> tuple[str, str, str, str]:
    return finding.policy, finding.rule, finding.resource, finding.name


def govern(app: App, inspector: Inspector, *, every_s: float) -> Compliance:
    """Judge what a service is asked for, and what it holds, by the policies that it follows; after `join_mesh`."""
    pools = PoolBoard(app.peers.channel("scheduler"), app.clock)
    compliance = Compliance(app.access, pools, app.clock)
    reporter = FeedReporter(app.peers.channel("auth"))
    watch = ComplianceWatch(compliance, inspector, reporter, app.clock, every_s=every_s)
    pools.on_change(watch.look_again)
    app.loop("follow pools", pools.run)
    app.loop("look at compliance", watch.run)
    return compliance
