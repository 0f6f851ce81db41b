"""Compliance for tests: pools that are where the test says, reports that the test reads, policies in few words."""

from collections.abc import Mapping
from typing import Any

from chassis.access import PolicySnapshot
from chassis.compliance import Compliance
from lepton.auth.v1.compliance_pb2 import ComplianceFinding, CompliancePolicy, ComplianceRule
from lepton.compliance.rulebook import Rulebook
from lepton.compliance.rules import artifact_name
from lepton.internal.v1.compliance_feed_pb2 import ReportFindingsRequest

POOLS = {"pools/eu": {"region": "eu"}, "pools/us": {"region": "us"}}


class KnownPools:
    """Labels of pools; None = not known yet."""

    def __init__(self, labels: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.labels: Mapping[str, Mapping[str, str]] | None = labels


class Reports:
    """Takes what services find."""

    def __init__(self) -> None:
        self.requests: list[ReportFindingsRequest] = []

    async def report(self, request: ReportFindingsRequest) -> None:
        self.requests.append(request)

    @property
    def last(self) -> list[ComplianceFinding]:
        return list(self.requests[-1].findings)


def governed(*policies: CompliancePolicy, pools: KnownPools | None = None, clock: Any = None) -> Compliance:
    """Compliance by these policies."""
    compliance = Compliance(pools=pools or KnownPools(POOLS), clock=clock)
    rule_by(compliance, *policies)
    return compliance


def rule_by(compliance: Compliance, *policies: CompliancePolicy, **more: Any) -> None:
    """These policies come into force, with exemptions and labels of data if given."""
    book = Rulebook(policies=policies, exemptions=more.get("exemptions", ()), data=more.get("data", {}))
    compliance.apply(PolicySnapshot(revision=compliance.revision + 1, issuer="i", audience="a", compliance=book))


def policy(policy_id: str = "law", *rules: Any, mode: Any = CompliancePolicy.ENFORCE, **given: Any) -> CompliancePolicy:
    """A policy of the organisation of these rules, each a message of a kind of rule."""
    made = CompliancePolicy(name=f"compliancePolicies/{policy_id}", mode=mode, etag='"7"', **given)
    for rule in rules:
        kind = type(rule).__name__.removesuffix("Rule").lower()
        made.rules.append(ComplianceRule(id=kind, **{kind: rule}))
    return made


def labelled(digest: str, project: str = "projects/acme", **labels: str) -> dict[str, dict[str, str]]:
    """The labels of an artifact."""
    return {artifact_name(project, digest): labels}
