"""Names of policies, exemptions from them, and data labels."""

from dataclasses import dataclass
from typing import ClassVar

from lepton.names.auth import ProjectName
from lepton.names.resource import HEX, ResourceName


@dataclass(frozen=True, slots=True)
class CompliancePolicyName(ResourceName):
    """Rules that a project has given itself."""

    pattern = "projects/{project}/compliancePolicies/{compliance_policy}"
    project: str
    compliance_policy: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class OrganisationCompliancePolicyName(ResourceName):
    """Rules of the whole organisation."""

    pattern = "compliancePolicies/{compliance_policy}"
    compliance_policy: str


@dataclass(frozen=True, slots=True)
class ComplianceExemptionName(ResourceName):
    """Leave not to keep a project's own policy."""

    pattern = "projects/{project}/compliancePolicies/{compliance_policy}/exemptions/{exemption}"
    project: str
    compliance_policy: str
    exemption: str

    @property
    def parent(self) -> CompliancePolicyName:
        """The policy it is from."""
        return CompliancePolicyName(self.project, self.compliance_policy)


@dataclass(frozen=True, slots=True)
class OrganisationComplianceExemptionName(ResourceName):
    """Leave not to keep a policy of the organisation."""

    pattern = "compliancePolicies/{compliance_policy}/exemptions/{exemption}"
    compliance_policy: str
    exemption: str

    @property
    def parent(self) -> OrganisationCompliancePolicyName:
        """The policy it is from."""
        return OrganisationCompliancePolicyName(self.compliance_policy)


@dataclass(frozen=True, slots=True)
class DataLabelsName(ResourceName):
    """What is known of an artifact; the id is its SHA-256 in hexadecimal."""

    pattern = "projects/{project}/dataLabels/{data_labels}"
    shapes: ClassVar[dict[str, str]] = {"data_labels": HEX}
    project: str
    data_labels: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)
