"""`client.compliance`: policies, exemptions, labels of data, findings and reports."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from lepton.auth.v1 import compliance_service_pb2 as pb
from lepton.auth.v1.compliance_pb2 import ComplianceExemption, ComplianceFinding, CompliancePolicy, DataLabels
from lepton.auth.v1.compliance_service_pb2_grpc import ComplianceServiceStub
from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.scope import Scope
from lepton.errors import AlreadyExists
from lepton.names import DataLabelsName

ORGANISATION = "*"


class Compliance(Group):
    """Keeps policies and reads what was found by them; `project="*"` means the whole organisation."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = ComplianceServiceStub(calls.channel("auth"))

    async def create_policy(
        self,
        policy_id: str,
        policy: CompliancePolicy,
        *,
        project: str | None = None,
        validate_only: bool = False,
        request_id: str = "",
    ) -> CompliancePolicy:
        """A new policy, in force at once; or only the check of one. AlreadyExists, InvalidArgument."""
        request = pb.CreateCompliancePolicyRequest(
            parent=self._parent(project),
            compliance_policy_id=policy_id,
            compliance_policy=policy,
            validate_only=validate_only,
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateCompliancePolicy, request)

    async def policy(self, policy: str, *, project: str | None = None) -> CompliancePolicy:
        """A policy by id or whole name."""
        request = pb.GetCompliancePolicyRequest(name=self._policy_name(policy, project))
        return await self._calls.unary(self._stub.GetCompliancePolicy, request)

    async def policies(self, *, project: str | None = None) -> list[CompliancePolicy]:
        """The policies that a project must keep; or, with `*`, those of the organisation."""
        request = pb.ListCompliancePoliciesRequest(parent=self._parent(project))
        return list((await self._calls.unary(self._stub.ListCompliancePolicies, request)).compliance_policies)

    async def update_policy(
        self, policy_id: str, policy: CompliancePolicy, *, project: str | None = None, etag: str = ""
    ) -> CompliancePolicy:
        """Replace all that was given of a policy, by its id or whole name. Aborted when it has another etag."""
        wanted = CompliancePolicy()
        wanted.CopyFrom(policy)
        wanted.name = self._policy_name(policy_id, project)
        request = pb.UpdateCompliancePolicyRequest(compliance_policy=wanted, etag=etag)
        return await self._calls.unary(self._stub.UpdateCompliancePolicy, request)

    async def delete_policy(self, policy: str, *, project: str | None = None, etag: str = "") -> None:
        """Delete a policy and the exemptions from it."""
        request = pb.DeleteCompliancePolicyRequest(name=self._policy_name(policy, project), etag=etag)
        await self._calls.unary(self._stub.DeleteCompliancePolicy, request)

    async def exempt(
        self,
        policy: str,
        exemption_id: str,
        resource: str,
        *,
        reason: str,
        until: datetime,
        rules: Collection[str] = (),
        project: str | None = None,
        request_id: str = "",
    ) -> ComplianceExemption:
        """Exempt a resource, by its whole name, and what lies in it, for a time."""
        exemption = ComplianceExemption(resource=resource, rules=rules, reason=reason)
        exemption.expire_time.FromDatetime(until.astimezone(UTC))
        request = pb.CreateComplianceExemptionRequest(
            parent=self._policy_name(policy, project),
            exemption_id=exemption_id,
            exemption=exemption,
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateComplianceExemption, request)

    async def exemptions(self, policy: str, *, project: str | None = None) -> list[ComplianceExemption]:
        """The exemptions from a policy, those that have run out too."""
        request = pb.ListComplianceExemptionsRequest(parent=self._policy_name(policy, project))
        return list((await self._calls.unary(self._stub.ListComplianceExemptions, request)).exemptions)

    async def end_exemption(self, name: str) -> None:
        """End an exemption, by its whole name."""
        await self._calls.unary(self._stub.DeleteComplianceExemption, pb.DeleteComplianceExemptionRequest(name=name))

    async def label(self, digest: str, labels: Mapping[str, str], *, project: str | None = None) -> DataLabels:
        """Label an artifact: `region`, `license`. What has labels is given others, for which more is needed."""
        parent = self._scope.parent(project)
        given = DataLabels(labels=dict(labels))
        try:
            request = pb.CreateDataLabelsRequest(
                parent=parent, digest=digest, data_labels=given, request_id=new_request_id()
            )
            return await self._calls.unary(self._stub.CreateDataLabels, request)
        except AlreadyExists:
            given.name = str(DataLabelsName(parent.removeprefix("projects/"), digest.removeprefix("sha256:")))
            return await self._calls.unary(self._stub.UpdateDataLabels, pb.UpdateDataLabelsRequest(data_labels=given))

    def labels(self, *, project: str | None = None, page_size: int = 0) -> Listing[DataLabels]:
        """The labels of a project's artifacts."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[DataLabels]:
            request = pb.ListDataLabelsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListDataLabels, request)
            return answer.data_labels, answer.next_page_token

        return Listing(page)

    async def findings(self, *, project: str | None = None) -> list[ComplianceFinding]:
        """What exists in a project and does not keep a rule, as the services last found it."""
        request = pb.ListComplianceFindingsRequest(parent=self._scope.parent(project))
        return list((await self._calls.unary(self._stub.ListComplianceFindings, request)).findings)

    async def report(self, *, project: str | None = None) -> pb.ComplianceReport:
        """How a project stands, with evidence."""
        request = pb.GetComplianceReportRequest(parent=self._scope.parent(project))
        return await self._calls.unary(self._stub.GetComplianceReport, request, timeout_s=60.0)

    def _policy_name(self, policy: str, project: str | None = None) -> str:
        """The whole name of a policy: that itself, or its id in the project or, with `*`, the organisation."""
        if "/" in policy:
            return policy
        parent = self._parent(project)
        return f"{parent}/compliancePolicies/{policy}" if parent else f"compliancePolicies/{policy}"

    def _parent(self, project: str | None) -> str:
        return "" if project == ORGANISATION else self._scope.parent(project)
