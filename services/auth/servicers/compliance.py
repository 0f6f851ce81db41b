"""ComplianceService and ComplianceFeedService: policies, kept for people; findings, told by services."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.call import POLICY_REVISION
from lepton.auth.v1 import compliance_service_pb2 as pb
from lepton.auth.v1.compliance_pb2 import ComplianceExemption, CompliancePolicy, DataLabels
from lepton.auth.v1.compliance_service_pb2_grpc import ComplianceServiceServicer
from lepton.internal.v1 import compliance_feed_pb2 as feed
from lepton.internal.v1.compliance_feed_pb2_grpc import ComplianceFeedServiceServicer
from lepton.names import ProjectName
from services.auth.bindings import parse_parent
from services.auth.compliance.data_labels import DataLabelling
from services.auth.compliance.exemptions import Exemptions, parse_exemption
from services.auth.compliance.findings import Findings
from services.auth.compliance.policies import CompliancePolicies, parse_policy
from services.auth.compliance.report import Reports
from services.auth.servicers.caller import the_call, the_caller


class ComplianceServicer(ComplianceServiceServicer):
    """Serves policies, exemptions, labels, findings and reports."""

    def __init__(
        self,
        *,
        policies: CompliancePolicies,
        exemptions: Exemptions,
        labels: DataLabelling,
        findings: Findings,
        reports: Reports,
    ) -> None:
        self._policies = policies
        self._exemptions = exemptions
        self._labels = labels
        self._findings = findings
        self._reports = reports

    async def CreateCompliancePolicy(self, request: pb.CreateCompliancePolicyRequest, context: Any) -> CompliancePolicy:
        return await self._policies.create(request)

    async def GetCompliancePolicy(self, request: pb.GetCompliancePolicyRequest, context: Any) -> CompliancePolicy:
        return await self._policies.get(parse_policy(request.name))

    async def ListCompliancePolicies(
        self, request: pb.ListCompliancePoliciesRequest, context: Any
    ) -> pb.ListCompliancePoliciesResponse:
        return pb.ListCompliancePoliciesResponse(compliance_policies=self._policies.all(parse_parent(request.parent)))

    async def UpdateCompliancePolicy(self, request: pb.UpdateCompliancePolicyRequest, context: Any) -> CompliancePolicy:
        return await self._policies.update(request)

    async def DeleteCompliancePolicy(self, request: pb.DeleteCompliancePolicyRequest, context: Any) -> Empty:
        _tell(context, await self._policies.delete(parse_policy(request.name), request.etag))
        return Empty()

    async def CreateComplianceExemption(
        self, request: pb.CreateComplianceExemptionRequest, context: Any
    ) -> ComplianceExemption:
        return await self._exemptions.create(request, the_caller().name)

    async def ListComplianceExemptions(
        self, request: pb.ListComplianceExemptionsRequest, context: Any
    ) -> pb.ListComplianceExemptionsResponse:
        found = await self._exemptions.all(parse_policy(request.parent, "parent"))
        return pb.ListComplianceExemptionsResponse(exemptions=found)

    async def DeleteComplianceExemption(self, request: pb.DeleteComplianceExemptionRequest, context: Any) -> Empty:
        _tell(context, await self._exemptions.delete(parse_exemption(request.name)))
        return Empty()

    async def CreateDataLabels(self, request: pb.CreateDataLabelsRequest, context: Any) -> DataLabels:
        return await self._labels.create(request)

    async def ListDataLabels(self, request: pb.ListDataLabelsRequest, context: Any) -> pb.ListDataLabelsResponse:
        found, token = await self._labels.page(request)
        return pb.ListDataLabelsResponse(data_labels=found, next_page_token=token)

    async def UpdateDataLabels(self, request: pb.UpdateDataLabelsRequest, context: Any) -> DataLabels:
        return await self._labels.update(request)

    async def ListComplianceFindings(
        self, request: pb.ListComplianceFindingsRequest, context: Any
    ) -> pb.ListComplianceFindingsResponse:
        found = await self._findings.in_project(ProjectName.parse(request.parent, "parent"))
        return pb.ListComplianceFindingsResponse(findings=found.findings)

    async def GetComplianceReport(self, request: pb.GetComplianceReportRequest, context: Any) -> pb.ComplianceReport:
        return await self._reports.make(ProjectName.parse(request.parent, "parent"), the_caller())


class ComplianceFeedServicer(ComplianceFeedServiceServicer):
    """Takes what services find."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    async def ReportFindings(self, request: feed.ReportFindingsRequest, context: Any) -> feed.ReportFindingsResponse:
        await self._findings.report(the_call().peer_service, request)
        return feed.ReportFindingsResponse()


def _tell(context: Any, revision: int) -> None:
    """The policy revision of a write whose answer has no place for it."""
    context.set_trailing_metadata(((POLICY_REVISION, str(revision)),))
