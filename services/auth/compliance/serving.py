"""Puts together what auth serves of compliance."""

from chassis.access import PolicyReplica
from chassis.paging import Pager
from chassis.server import Registration
from lepton.auth.v1.compliance_service_pb2_grpc import add_ComplianceServiceServicer_to_server
from lepton.internal.v1.compliance_feed_pb2_grpc import add_ComplianceFeedServiceServicer_to_server
from services.auth.audit_log.query import AuditQuery
from services.auth.compliance.data_labels import DataLabelling
from services.auth.compliance.exemptions import Exemptions
from services.auth.compliance.findings import Findings
from services.auth.compliance.policies import CompliancePolicies
from services.auth.compliance.report import Reports
from services.auth.policy import Policy
from services.auth.servicers.compliance import ComplianceFeedServicer, ComplianceServicer
from services.auth.store import Store


def compliance_services(
    store: Store, policy: Policy, pager: Pager, access: PolicyReplica
) -> tuple[Registration, Registration]:
    """The service for people, and the one that the other services tell."""
    policies = CompliancePolicies(store, policy)
    findings = Findings(store.kv, store.audit, policy, store.clock)
    servicer = ComplianceServicer(
        policies=policies,
        exemptions=Exemptions(store, policy),
        labels=DataLabelling(store, policy),
        findings=findings,
        reports=Reports(store, policies, findings, AuditQuery(store.kv, pager), policy, access),
    )
    return (
        (add_ComplianceServiceServicer_to_server, servicer),
        (add_ComplianceFeedServiceServicer_to_server, ComplianceFeedServicer(findings)),
    )
