"""What the services have found that does not keep a policy: kept by project and service, each change of it audited."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from chassis.audit.entry import nanoseconds
from chassis.clock import Clock
from chassis.kv import KV, Put, mod
from lepton.audit.record import Outcome, Record, clean
from lepton.auth.v1.compliance_pb2 import ComplianceFinding
from lepton.errors import Aborted, InvalidArgument
from lepton.internal.v1.compliance_feed_pb2 import FindingsRecord, ReportFindingsRequest
from lepton.names import ProjectName
from services.auth import layout
from services.auth.audit import SERVICE, AuditTrail
from services.auth.policy import Policy

_ATTEMPTS: Final = 8
_MOST_RECORDS: Final = 200  # of one report; the rest is one record that counts them
_ACTIONS: Final = {
    ComplianceFinding.REPORTED: "compliance.found",
    ComplianceFinding.QUARANTINED: "compliance.quarantined",
    ComplianceFinding.EXEMPTED: "compliance.exempted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands in a project, and who has looked when."""

    findings: Sequence[ComplianceFinding]
    looked: Mapping[str, datetime]
    omitted: int = 0


class Findings:
    """Keeps reports."""

    def __init__(self, kv: KV, trail: AuditTrail, policy: Policy, clock: Clock) -> None:
        self._kv, self._trail, self._policy, self._clock = kv, trail, policy, clock

    async def report(self, service: str, request: ReportFindingsRequest) -> None:
        """All that a service finds now; what is new, is done about otherwise, or settled goes into the audit log."""
        project = ProjectName.parse(request.parent, "parent")
        _check_within(project, request.findings)
        key = layout.compliance_findings(project, service)
        for _ in range(_ATTEMPTS):
            entry = await self._kv.get(key)
            before = FindingsRecord.FromString(entry.value) if entry is not None else FindingsRecord()
            if request.policy_revision < before.policy_revision or await self._is_gone(project):
                return
            made = FindingsRecord(policy_revision=request.policy_revision, omitted=request.omitted)
            made.time.FromDatetime(self._clock.now())
            made.findings.extend(_dated(request.findings, before.findings, service, self._clock.now()))
            guard, put = mod(key, entry.mod_revision if entry is not None else 0), Put(key, made.SerializeToString())
            records = self._records(service, before.findings, made.findings)
            done = await (self._trail.append(records, [guard], [put]) if records else self._kv.txn([guard], [put]))
            if done.succeeded:
                return
        raise Aborted("WRITE_CONFLICT")

    async def in_project(self, project: ProjectName) -> Found:
        """The findings of all services by policies that there still are."""
        prefix = layout.compliance_findings(project)
        policies = {each.name for each in self._policy.compliance.policies.values()}
        findings: list[ComplianceFinding] = []
        looked: dict[str, datetime] = {}
        omitted = 0
        for entry in (await self._kv.list(prefix)).entries:
            record = FindingsRecord.FromString(entry.value)
            looked[entry.key.removeprefix(prefix)] = record.time.ToDatetime(tzinfo=UTC)
            findings += [each for each in record.findings if each.policy in policies]
            omitted += record.omitted
        findings.sort(key=lambda each: (each.policy, each.rule, each.resource, each.name))
        return Found(findings=findings, looked=looked, omitted=omitted)

    async def _is_gone(self, project: ProjectName) -> bool:
        return await self._kv.get(layout.project(project)) is None

    def _records(
        self, service: str, before: Iterable[ComplianceFinding], after: Iterable[ComplianceFinding]
    ) -> list[Record]:
        known, now = {each.name: each for each in before}, {each.name: each for each in after}
        told = [
            (_ACTIONS[each.action], each)
            for name, each in now.items()
            if name not in known or known[name].action != each.action
        ]
        told += [("compliance.settled", each) for name, each in known.items() if name not in now]
        records = [self._record(service, action, each) for action, each in told[:_MOST_RECORDS]]
        if len(told) > _MOST_RECORDS:
            rest = told[_MOST_RECORDS]
            records.append(self._record(service, f"{rest[0]} and {len(told) - _MOST_RECORDS} more", rest[1]))
        return records

    def _record(self, service: str, action: str, finding: ComplianceFinding) -> Record:
        return Record(
            time_ns=nanoseconds(self._clock.now()),
            outcome=Outcome.SUCCEEDED,
            trace_id="",
            service=SERVICE,
            actor=f"service/{service}",
            action=action,
            resource=clean(finding.resource),
            source="",
            reason=clean(f"{finding.policy} {finding.rule}"),
        )


def _check_within(project: ProjectName, findings: Iterable[ComplianceFinding]) -> None:
    """What a service tells of a project is shown to that project: it must be about it."""
    for index, each in enumerate(findings):
        for field in ("name", "resource"):
            if not getattr(each, field).startswith(f"{project}/"):
                bad = {f"findings[{index}].{field}": f"must lie in {project}"}
                raise InvalidArgument("INVALID_FIELD", fields=bad)


def _dated(
    findings: Iterable[ComplianceFinding], before: Iterable[ComplianceFinding], service: str, now: datetime
) -> list[ComplianceFinding]:
    """The findings, each since when it is known."""
    since = {each.name: each.create_time for each in before}
    made = []
    for each in findings:
        dated = ComplianceFinding()
        dated.CopyFrom(each)
        dated.service = service
        if each.action not in _ACTIONS:
            dated.action = ComplianceFinding.REPORTED
        if each.name in since:
            dated.create_time.CopyFrom(since[each.name])
        else:
            dated.create_time.FromDatetime(now)
        made.append(dated)
    return made
