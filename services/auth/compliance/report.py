"""The report of a project: policies, exemptions, findings, and the audit records that are evidence of each."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC
from typing import Final

from chassis.access import Decision, PolicyReplica
from chassis.call import Principal
from chassis.clock import Clock
from chassis.kv import KV
from lepton.audit.record import Outcome, Record
from lepton.auth.v1.audit_service_pb2 import QueryAuditRequest
from lepton.auth.v1.compliance_pb2 import ComplianceExemption, ComplianceFinding
from lepton.auth.v1.compliance_service_pb2 import ComplianceReport
from lepton.names import ProjectName
from services.auth import layout
from services.auth.audit_log.query import AuditQuery
from services.auth.audit_log.stored import read_anchor
from services.auth.compliance.findings import Findings
from services.auth.compliance.policies import CompliancePolicies
from services.auth.policy import Policy
from services.auth.store import Store

_PAGES: Final = 8  # of a thousand records each, the newest first
_OF_EACH: Final = 5  # records of one subject


class Reports:
    """Makes reports out of what auth keeps."""

    def __init__(
        self,
        store: Store,
        policies: CompliancePolicies,
        findings: Findings,
        query: AuditQuery,
        policy: Policy,
        access: PolicyReplica,
    ) -> None:
        self._kv: KV = store.kv
        self._clock: Clock = store.clock
        self._store, self._policies, self._findings, self._query = store, policies, findings, query
        self._policy, self._access = policy, access

    async def make(self, project: ProjectName, caller: Principal) -> ComplianceReport:
        """How a project stands now, with evidence as far as the caller may see audit records. Raises NotFound."""
        await self._store.entry(project, layout.project(project))
        policies = self._policies.all(project)
        found = await self._findings.in_project(project)
        exemptions = self._exemptions(project, {each.name for each in policies})
        report = ComplianceReport(
            project=str(project),
            policy_revision=self._policy.revision,
            policies=policies,
            exemptions=exemptions,
            findings=found.findings,
            omitted=found.omitted,
        )
        report.create_time.FromDatetime(self._clock.now())
        _count(report)
        for service, time in found.looked.items():
            report.looked[service].FromDatetime(time)
        report.evidence_hidden = not self._may_list(caller, str(project))
        if not report.evidence_hidden:
            await self._add_evidence(report, project)
            await self._add_head(report)
        if not self._may_list(caller, ""):
            report.ClearField("audit_root")
            for each in report.evidence:
                each.ClearField("digest")
        return report

    def _may_list(self, caller: Principal, resource: str) -> bool:
        return self._access.allowed(caller, "auditRecords.list", resource) is Decision.ALLOWED

    async def _add_head(self, report: ComplianceReport) -> None:
        anchor = await read_anchor(self._kv)
        if anchor.batch is not None:
            report.audit_sequence = anchor.batch.last
            report.audit_root, report.audit_key_id = anchor.batch.log_root, anchor.batch.key_id

    def _exemptions(self, project: ProjectName, policies: set[str]) -> list[ComplianceExemption]:
        """Those that are for this project and have not run out; of other projects nobody hears."""
        now, known = self._clock.now(), self._policy.compliance.exemptions
        return [
            known[key]
            for key in sorted(known)
            if known[key].name.partition("/exemptions/")[0] in policies
            and f"{known[key].resource}/".startswith(f"{project}/")
            and known[key].expire_time.ToDatetime(tzinfo=UTC) > now
        ]

    async def _add_evidence(self, report: ComplianceReport, project: ProjectName) -> None:
        own = {each.resource for each in report.findings} | {str(project)}
        names = [*(each.name for each in report.policies), *(each.name for each in report.exemptions)]
        own |= {name for name in names if name.startswith("projects/")}
        token, seen = "", Counter[str]()
        for _ in range(_PAGES):
            request = QueryAuditRequest(parent=str(project), page_size=1000, newest_first=True, page_token=token)
            records, token = await self._query.page(request)
            _take(report, (each for each in records if is_evidence(each, own)), seen)
            if not token:
                return
        report.evidence_truncated = True


def is_evidence(record: Record, subjects: set[str]) -> bool:
    """Whether a record shows how a subject came to be so, or that something was refused by a policy."""
    return record.resource in subjects or record.reason == "COMPLIANCE_VIOLATION"


def _take(report: ComplianceReport, records: Iterable[Record], seen: "Counter[str]") -> None:
    for record in records:
        seen[record.resource] += 1
        if seen[record.resource] > _OF_EACH:
            continue
        evidence = report.evidence.add(
            subject=record.resource,
            sequence=record.sequence,
            actor=record.actor,
            action=record.action,
            outcome=f"{Outcome(record.outcome).name} {record.reason}".strip(),
            digest=record.digest,
        )
        evidence.time.FromNanoseconds(record.time_ns)


def _count(report: ComplianceReport) -> None:
    tally = Counter((each.policy, each.rule, each.action) for each in report.findings)
    for policy in report.policies:
        for rule in policy.rules:
            of = (policy.name, rule.id)
            report.counts.add(
                policy=policy.name,
                rule=rule.id,
                open=tally[(*of, ComplianceFinding.REPORTED)],
                exempted=tally[(*of, ComplianceFinding.EXEMPTED)],
                quarantined=tally[(*of, ComplianceFinding.QUARANTINED)],
            )
