"""Exemptions: leave not to keep a policy, for one resource, for a time, for a reason."""

from datetime import UTC, timedelta
from typing import Final

from chassis.kv import present
from lepton.auth.v1 import compliance_service_pb2 as pb
from lepton.auth.v1.compliance_pb2 import ComplianceExemption, CompliancePolicy
from lepton.errors import InvalidArgument
from lepton.names import (
    ComplianceExemptionName,
    CompliancePolicyName,
    OrganisationComplianceExemptionName,
    ProjectName,
)
from services.auth import layout
from services.auth.bindings import checked_resource
from services.auth.compliance.policies import AnyPolicyName, parse_policy
from services.auth.compliance.room import check_room
from services.auth.policy import Policy
from services.auth.store import Store, resource_of

AnyExemptionName = ComplianceExemptionName | OrganisationComplianceExemptionName
_LONGEST: Final = timedelta(days=366)


class Exemptions:
    """Those that have run out stay, as a record of what was allowed, until their policy is deleted."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    async def create(self, request: pb.CreateComplianceExemptionRequest, creator: str) -> ComplianceExemption:
        """A new one."""
        policy = parse_policy(request.parent, "parent")
        name = _name_of(policy, request.exemption_id)
        given = request.exemption
        known = await self._store.get(policy, layout.compliance_policy(policy), CompliancePolicy)
        self._check(policy, known, given)
        made = ComplianceExemption(
            resource=given.resource,
            rules=given.rules,
            reason=given.reason.strip(),
            expire_time=given.expire_time,
            creator=creator,
        )
        check_room(
            self._policy.compliance, made, str(policy.parent) if isinstance(policy, CompliancePolicyName) else ""
        )
        key = layout.compliance_exemption(name)
        needs = [present(layout.compliance_policy(policy))]
        created = await self._store.create(request, made, name, key, needs=needs)
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def all(self, policy: AnyPolicyName) -> list[ComplianceExemption]:
        """Those from a policy."""
        await self._store.entry(policy, layout.compliance_policy(policy))
        page = await self._store.kv.list(layout.compliance_exemptions(policy))
        return [resource_of(entry, ComplianceExemption) for entry in page.entries]

    async def delete(self, name: AnyExemptionName) -> int:
        """End one; the answer is the revision from which on it is gone."""
        revision = await self._store.delete(name, lambda: self._store.entry(name, layout.compliance_exemption(name)))
        await self._policy.reached(revision)
        return revision

    def _check(self, policy: AnyPolicyName, known: CompliancePolicy, given: ComplianceExemption) -> None:
        now = self._store.clock.now()
        fields = {}
        if not given.reason.strip():
            fields["exemption.reason"] = "must say why"
        try:
            left = given.expire_time.ToDatetime(tzinfo=UTC) - now
        except ValueError:
            left = timedelta()
        if not timedelta() < left <= _LONGEST:
            fields["exemption.expire_time"] = f"must be a time in the next {_LONGEST.days} days"
        if unknown := sorted(set(given.rules) - {rule.id for rule in known.rules}):
            fields["exemption.rules"] = f"the policy has no rule {unknown[0][:64]!r}"
        if fields:
            raise InvalidArgument("INVALID_FIELD", fields=fields)
        _check_resource(policy, given.resource)


def _check_resource(policy: AnyPolicyName, resource: str) -> None:
    field = "exemption.resource"
    project = ProjectName.parse("/".join(resource.split("/")[:2]), field)
    if isinstance(policy, CompliancePolicyName) and project != policy.parent:
        raise InvalidArgument("INVALID_FIELD", fields={field: f"must lie in {policy.parent}, as its policy does"})
    if resource != str(project):
        checked_resource(resource, project, field)


def parse_exemption(text: str) -> AnyExemptionName:
    """The name of an exemption of either kind."""
    kind = ComplianceExemptionName if text.startswith("projects/") else OrganisationComplianceExemptionName
    return kind.parse(text)


def _name_of(policy: AnyPolicyName, exemption: str) -> AnyExemptionName:
    if isinstance(policy, CompliancePolicyName):
        return ComplianceExemptionName(policy.project, policy.compliance_policy, exemption)
    return OrganisationComplianceExemptionName(policy.compliance_policy, exemption)
