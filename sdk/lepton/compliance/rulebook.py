"""Policies and exemptions together: what a subject is told by all that are in force for it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lepton.auth.v1.compliance_pb2 import ComplianceExemption, ComplianceFinding, CompliancePolicy, ComplianceRule
from lepton.compliance.rules import Fault, Labels, World, artifact_name, faults, needs_pools
from lepton.compliance.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that is not kept."""

    policy: CompliancePolicy
    rule: ComplianceRule
    subject: Subject
    fault: Fault
    exemption: str = ""  # the one that covers it

    @property
    def is_refused(self) -> bool:
        """Whether what is asked for must be refused because of it."""
        return self.policy.mode == CompliancePolicy.ENFORCE and not self.exemption

    @property
    def is_told(self) -> bool:
        """Whether who asks is told and gets it."""
        return self.policy.mode == CompliancePolicy.WARN and not self.exemption

    @property
    def is_quarantined(self) -> bool:
        """Whether what exists is to be taken out of service."""
        return self.is_refused and self.policy.remedy == CompliancePolicy.QUARANTINE

    @property
    def fix(self) -> str:
        """What is to be done, in the organisation's words or in ours."""
        return self.rule.fix or self.fault.fix

    def finding(self, action: "ComplianceFinding.Action.ValueType") -> ComplianceFinding:
        """It as a finding; auth gives it its time."""
        kind = self.rule.WhichOneof("kind") or ""
        key = "\n".join((self.policy.name, self.rule.id, self.subject.resource, self.fault.problem))
        finding_id = f"f{hashlib.sha256(key.encode()).hexdigest()[:20]}"
        return ComplianceFinding(
            name=f"{self.subject.project}/complianceFindings/{finding_id}",
            policy=self.policy.name,
            rule=self.rule.id,
            kind=kind,
            mode=self.policy.mode or CompliancePolicy.DRY_RUN,
            resource=self.subject.resource,
            message=self.fault.problem[:512],
            fix=self.fix[:512],
            action=ComplianceFinding.EXEMPTED if self.exemption else action,
            exemption=self.exemption,
            digests=list(dict.fromkeys((*self.subject.digests, *self.fault.digests)))[:8],
            policy_etag=self.policy.etag,
            resource_etag=self.subject.etag,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulebook:
    """All that is demanded, at one revision of the policy."""

    policies: Sequence[CompliancePolicy] = ()
    exemptions: Sequence[ComplianceExemption] = ()
    data: Mapping[str, Labels] = field(default_factory=dict)  # artifact's name -> labels

    def in_force(self, project: str) -> Iterator[CompliancePolicy]:
        """The policies that a project (`projects/{project}`) must keep."""
        return (policy for policy in self.policies if concerns(policy, project))

    def needs_pools(self, subject: Subject) -> bool:
        """Whether it cannot be judged without the labels of pools."""
        return any(needs_pools(rule, subject) for policy in self.in_force(subject.project) for rule in policy.rules)

    def judge(self, subject: Subject, pools: Mapping[str, Labels] | None, now: datetime) -> list[Violation]:
        """Every rule that the subject does not keep, those from which it is exempted too."""
        world = World(data=self.data, pools=pools, now=now)
        return [
            Violation(
                policy=policy,
                rule=rule,
                subject=subject,
                fault=fault,
                exemption=self._exemption(policy, rule, subject, fault, now),
            )
            for policy in self.in_force(subject.project)
            for rule in policy.rules
            for fault in faults(rule, subject, world)
        ]

    def _exemption(
        self, policy: CompliancePolicy, rule: ComplianceRule, subject: Subject, fault: Fault, now: datetime
    ) -> str:
        named = (subject.resource, *(artifact_name(subject.project, digest) for digest in fault.digests))
        return next(
            (
                each.name
                for each in self.exemptions
                if each.name.startswith(f"{policy.name}/exemptions/")
                and (not each.rules or rule.id in each.rules)
                and each.expire_time.ToDatetime(tzinfo=UTC) > now
                and any(covers(each.resource, name) for name in named)
            ),
            "",
        )


def concerns(policy: CompliancePolicy, project: str) -> bool:
    """Whether a project must keep a policy: its own, and the organisation's unless that is for others only."""
    if policy.name.startswith("projects/"):
        return policy.name.startswith(f"{project}/")
    return not policy.projects or project in policy.projects


def covers(resource: str, name: str) -> bool:
    """Whether a name is that of the resource, or of something that lies in it."""
    return f"{name}/".startswith(f"{resource}/")


def data_name(labels: str) -> str:
    """The name of the artifact that labels are of."""
    return labels.replace("/dataLabels/", "/artifacts/")


def worst_first(violations: Iterable[Violation]) -> list[Violation]:
    """Those that are refused before those that are told before the rest."""
    return sorted(violations, key=lambda each: (not each.is_refused, not each.is_told))
