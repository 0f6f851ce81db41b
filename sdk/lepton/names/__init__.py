"""The names of Lepton's resources: one frozen class per resource; a name that exists is valid."""

from lepton.names.auth import (
    ApiKeyName,
    OrganisationRoleBindingName,
    PrincipalLimitName,
    ProjectName,
    RoleBindingName,
    RoleName,
    SecretName,
    ServiceAccountName,
    UserIdentityName,
    UserName,
    WorkloadTrustName,
)
from lepton.names.compliance import (
    ComplianceExemptionName,
    CompliancePolicyName,
    DataLabelsName,
    OrganisationComplianceExemptionName,
    OrganisationCompliancePolicyName,
)
from lepton.names.inference import (
    BatchPredictionName,
    DeploymentName,
    DeploymentRevisionName,
    ModelName,
    OptimizationName,
    VersionName,
)
from lepton.names.resource import ID, ResourceName, check_id, not_found, project_of
from lepton.names.scheduler import FloatingResourceName, NodeName, PoolName, QueueName, WorkloadName
from lepton.names.trainer import ArtifactName, CheckpointName, JobName

__all__ = [
    "ID",
    "ApiKeyName",
    "ArtifactName",
    "BatchPredictionName",
    "CheckpointName",
    "ComplianceExemptionName",
    "CompliancePolicyName",
    "DataLabelsName",
    "DeploymentName",
    "DeploymentRevisionName",
    "FloatingResourceName",
    "JobName",
    "ModelName",
    "NodeName",
    "OptimizationName",
    "OrganisationComplianceExemptionName",
    "OrganisationCompliancePolicyName",
    "OrganisationRoleBindingName",
    "PoolName",
    "PrincipalLimitName",
    "ProjectName",
    "QueueName",
    "ResourceName",
    "RoleBindingName",
    "RoleName",
    "SecretName",
    "ServiceAccountName",
    "UserIdentityName",
    "UserName",
    "VersionName",
    "WorkloadName",
    "WorkloadTrustName",
    "check_id",
    "not_found",
    "project_of",
]
