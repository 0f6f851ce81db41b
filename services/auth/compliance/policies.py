"""Compliance policies: created, read, changed and deleted, of the organisation or of a project."""

from collections.abc import Sequence

from chassis.kv import Compare, DeletePrefix, present
from lepton.auth.v1 import compliance_service_pb2 as pb
from lepton.auth.v1.compliance_pb2 import CompliancePolicy
from lepton.compliance.checking import checked
from lepton.compliance.rulebook import concerns
from lepton.names import CompliancePolicyName, OrganisationCompliancePolicyName, ProjectName
from services.auth import layout
from services.auth.bindings import parse_parent
from services.auth.compliance.room import check_room, check_size
from services.auth.policy import Policy
from services.auth.store import Store, already_exists

AnyPolicyName = CompliancePolicyName | OrganisationCompliancePolicyName


class CompliancePolicies:
    """Every write is in force in this process when it is answered."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self._store = store
        self._policy = policy

    async def create(self, request: pb.CreateCompliancePolicyRequest) -> CompliancePolicy:
        """A new policy, or only the check of one."""
        parent = parse_parent(request.parent)
        name: AnyPolicyName = (
            CompliancePolicyName(parent.project, request.compliance_policy_id)
            if parent is not None
            else OrganisationCompliancePolicyName(request.compliance_policy_id)
        )
        made = checked(request.compliance_policy, is_organisation=parent is None)
        if parent is not None:
            await self._store.entry(parent, layout.project(parent))
        check_room(self._policy.compliance, made, request.parent)
        if request.validate_only:
            return await self._only_checked(name, made)
        needs: Sequence[Compare] = [present(layout.project(parent))] if parent is not None else []
        created = await self._store.create(request, made, name, layout.compliance_policy(name), needs=needs)
        await self._policy.reached(int(created.etag.strip('"')))
        return created

    async def get(self, name: AnyPolicyName) -> CompliancePolicy:
        """A policy."""
        return await self._store.get(name, layout.compliance_policy(name), CompliancePolicy)

    def all(self, parent: ProjectName | None) -> list[CompliancePolicy]:
        """The organisation's policies; or those that a project must keep, without the names of other projects."""
        known = self._policy.compliance.policies
        found = [known[key] for key in sorted(known)]
        if parent is None:
            return [each for each in found if not each.name.startswith("projects/")]
        return [_as_seen_by(each, str(parent)) for each in found if concerns(each, str(parent))]

    async def update(self, request: pb.UpdateCompliancePolicyRequest) -> CompliancePolicy:
        """Replace all that was given of a policy."""
        name = parse_policy(request.compliance_policy.name, "compliance_policy.name")
        wanted = checked(request.compliance_policy, is_organisation=isinstance(name, OrganisationCompliancePolicyName))
        check_size(wanted)

        def replaced(before: CompliancePolicy) -> CompliancePolicy:
            made = CompliancePolicy()
            made.CopyFrom(wanted)
            made.name, made.uid = before.name, before.uid
            made.create_time.CopyFrom(before.create_time)
            return made

        made, revision = await self._store.update(
            name, layout.compliance_policy(name), CompliancePolicy, request.etag, replaced
        )
        await self._policy.reached(revision)
        return made

    async def delete(self, name: AnyPolicyName, etag: str) -> int:
        """Delete a policy with its exemptions; the answer is the revision from which on it is gone."""
        revision = await self._store.delete(
            name,
            lambda: self._store.entry(name, layout.compliance_policy(name)),
            given_etag=etag,
            also=[DeletePrefix(layout.compliance_exemptions(name))],
        )
        await self._policy.reached(revision)
        return revision

    async def _only_checked(self, name: AnyPolicyName, made: CompliancePolicy) -> CompliancePolicy:
        if await self._store.kv.get(layout.compliance_policy(name)) is not None:
            raise already_exists(name)
        made.name = str(name)
        return made


def parse_policy(text: str, field: str = "name") -> AnyPolicyName:
    """The name of a policy of either kind."""
    kind = CompliancePolicyName if text.startswith("projects/") else OrganisationCompliancePolicyName
    return kind.parse(text, field)


def _as_seen_by(policy: CompliancePolicy, project: str) -> CompliancePolicy:
    if not policy.projects:
        return policy
    seen = CompliancePolicy()
    seen.CopyFrom(policy)
    seen.projects[:] = [project]
    return seen
