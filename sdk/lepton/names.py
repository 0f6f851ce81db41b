"""The names of Lepton's resources: one frozen class per resource; a name that exists is valid."""

import re
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Final, Self

from lepton.errors import InvalidArgument, NotFound

ID: Final = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?"  # what a user may choose
_CHOSEN: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"  # what the system chooses
_HEX: Final = "[0-9a-f]{64}"


class ResourceName:
    """What every name can do; `pattern` is its shape, the dataclass's fields are its variables, in order."""

    __slots__ = ()
    pattern: ClassVar[str]
    shapes: ClassVar[dict[str, str]] = {}  # variables that are not a plain id

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            check_id(getattr(self, field.name), field.name, self.shapes.get(field.name, ID))

    def __str__(self) -> str:
        return self.pattern.format(**{field.name: getattr(self, field.name) for field in fields(self)})  # type: ignore[arg-type]

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """The name that `text` spells; InvalidArgument naming `field` when it spells none."""
        match = _matcher(cls.pattern).fullmatch(text)
        if match is None:
            raise _invalid(field, cls.pattern)
        try:
            return cls(**match.groupdict())
        except InvalidArgument as error:
            raise _invalid(field, cls.pattern) from error


@dataclass(frozen=True, slots=True)
class ProjectName(ResourceName):
    """A project: the tenant."""

    pattern = "projects/{project}"
    project: str


@dataclass(frozen=True, slots=True)
class UserName(ResourceName):
    """A human principal."""

    pattern = "users/{user}"
    user: str


@dataclass(frozen=True, slots=True)
class ServiceAccountName(ResourceName):
    """A program's principal in a project."""

    pattern = "projects/{project}/serviceAccounts/{service_account}"
    project: str
    service_account: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class ApiKeyName(ResourceName):
    """A key with which a service account signs in."""

    pattern = "projects/{project}/serviceAccounts/{service_account}/apiKeys/{api_key}"
    shapes: ClassVar[dict[str, str]] = {"api_key": _CHOSEN}
    project: str
    service_account: str
    api_key: str

    @property
    def parent(self) -> ServiceAccountName:
        """The service account it belongs to."""
        return ServiceAccountName(self.project, self.service_account)


@dataclass(frozen=True, slots=True)
class SecretName(ResourceName):
    """A value that jobs of a project are given."""

    pattern = "projects/{project}/secrets/{secret}"
    project: str
    secret: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class UserIdentityName(ResourceName):
    """Who a user is at an OpenID provider."""

    pattern = "users/{user}/identities/{identity}"
    shapes: ClassVar[dict[str, str]] = {"identity": _HEX}
    user: str
    identity: str

    @property
    def parent(self) -> UserName:
        """The user."""
        return UserName(self.user)


@dataclass(frozen=True, slots=True)
class WorkloadTrustName(ResourceName):
    """A trust in ID tokens that sign in as a service account."""

    pattern = "projects/{project}/serviceAccounts/{service_account}/workloadTrusts/{workload_trust}"
    project: str
    service_account: str
    workload_trust: str

    @property
    def parent(self) -> ServiceAccountName:
        """The service account it belongs to."""
        return ServiceAccountName(self.project, self.service_account)


@dataclass(frozen=True, slots=True)
class RoleBindingName(ResourceName):
    """A role given on one project."""

    pattern = "projects/{project}/roleBindings/{role_binding}"
    shapes: ClassVar[dict[str, str]] = {"role_binding": _CHOSEN}
    project: str
    role_binding: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class RoleName(ResourceName):
    """A set of permissions."""

    pattern = "roles/{role}"
    role: str


@dataclass(frozen=True, slots=True)
class PrincipalLimitName(ResourceName):
    """How much some principals may use."""

    pattern = "principalLimits/{principal_limit}"
    principal_limit: str


@dataclass(frozen=True, slots=True)
class OrganisationRoleBindingName(ResourceName):
    """A role given on the whole organisation."""

    pattern = "roleBindings/{role_binding}"
    shapes: ClassVar[dict[str, str]] = {"role_binding": _CHOSEN}
    role_binding: str


@dataclass(frozen=True, slots=True)
class PoolName(ResourceName):
    """A pool of nodes."""

    pattern = "pools/{pool}"
    pool: str


@dataclass(frozen=True, slots=True)
class NodeName(ResourceName):
    """A machine in a pool."""

    pattern = "pools/{pool}/nodes/{node}"
    pool: str
    node: str

    @property
    def parent(self) -> PoolName:
        """The pool it belongs to."""
        return PoolName(self.pool)


@dataclass(frozen=True, slots=True)
class QueueName(ResourceName):
    """A line of workloads with a share of the fleet."""

    pattern = "queues/{queue}"
    queue: str


@dataclass(frozen=True, slots=True)
class FloatingResourceName(ResourceName):
    """Something that workloads use and that belongs to no node."""

    pattern = "floatingResources/{floating_resource}"
    floating_resource: str


@dataclass(frozen=True, slots=True)
class WorkloadName(ResourceName):
    """What the scheduler places: gangs of slices."""

    pattern = "projects/{project}/workloads/{workload}"
    project: str
    workload: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class JobName(ResourceName):
    """A training job."""

    pattern = "projects/{project}/jobs/{job}"
    project: str
    job: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class CheckpointName(ResourceName):
    """A committed checkpoint of a job."""

    pattern = "projects/{project}/jobs/{job}/checkpoints/{checkpoint}"
    shapes: ClassVar[dict[str, str]] = {"checkpoint": _CHOSEN}
    project: str
    job: str
    checkpoint: str

    @property
    def parent(self) -> JobName:
        """The job it belongs to."""
        return JobName(self.project, self.job)


@dataclass(frozen=True, slots=True)
class ArtifactName(ResourceName):
    """Bytes of a project, named by their SHA-256 in hexadecimal."""

    pattern = "projects/{project}/artifacts/{artifact}"
    shapes: ClassVar[dict[str, str]] = {"artifact": _HEX}
    project: str
    artifact: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class ModelName(ResourceName):
    """A model of the registry."""

    pattern = "projects/{project}/models/{model}"
    project: str
    model: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class VersionName(ResourceName):
    """One version of a model."""

    pattern = "projects/{project}/models/{model}/versions/{version}"
    shapes: ClassVar[dict[str, str]] = {"version": _CHOSEN}
    project: str
    model: str
    version: str

    @property
    def parent(self) -> ModelName:
        """The model it belongs to."""
        return ModelName(self.project, self.model)


@dataclass(frozen=True, slots=True)
class OptimizationName(ResourceName):
    """A search for a smaller or faster variant of a model."""

    pattern = "projects/{project}/models/{model}/optimizations/{optimization}"
    project: str
    model: str
    optimization: str

    @property
    def parent(self) -> ModelName:
        """The model it is of."""
        return ModelName(self.project, self.model)


@dataclass(frozen=True, slots=True)
class DeploymentName(ResourceName):
    """A version being served."""

    pattern = "projects/{project}/deployments/{deployment}"
    project: str
    deployment: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


@dataclass(frozen=True, slots=True)
class DeploymentRevisionName(ResourceName):
    """One template of a deployment; the id is its number."""

    pattern = "projects/{project}/deployments/{deployment}/revisions/{revision}"
    shapes: ClassVar[dict[str, str]] = {"revision": "[1-9][0-9]{0,7}"}
    project: str
    deployment: str
    revision: str

    @property
    def parent(self) -> DeploymentName:
        """The deployment it belongs to."""
        return DeploymentName(self.project, self.deployment)

    @property
    def number(self) -> int:
        """Its number, from 1."""
        return int(self.revision)


@dataclass(frozen=True, slots=True)
class BatchPredictionName(ResourceName):
    """A model applied to a dataset."""

    pattern = "projects/{project}/batchPredictions/{batch_prediction}"
    project: str
    batch_prediction: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


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
    shapes: ClassVar[dict[str, str]] = {"data_labels": _HEX}
    project: str
    data_labels: str

    @property
    def parent(self) -> ProjectName:
        """The project it belongs to."""
        return ProjectName(self.project)


def check_id(value: str, field: str, shape: str = ID) -> str:
    """The id itself when it has the shape, else InvalidArgument naming the field."""
    if not re.fullmatch(shape, value, re.ASCII):
        raise _invalid(field, f"^{shape}$")
    return value


def project_of(resource: str) -> str | None:
    """The id of the project in which a resource or collection lies; None for what belongs to no project."""
    collection, _, rest = resource.partition("/")
    return rest.partition("/")[0] or None if collection == "projects" else None


def not_found(name: ResourceName | str) -> NotFound:
    """The one answer for a resource that is absent or that the caller may not know of: built from its name only."""
    text = str(name)[:256]
    collection = text.split("/")[-2] if text.count("/") % 2 else ""
    kind = _KINDS.get(collection, "resource")
    facts: Any = {kind: text}
    return NotFound(f"{kind.upper()}_NOT_FOUND", **facts)


_KINDS: Final = {
    kind.pattern.split("/")[-2]: kind.pattern.split("/")[-1].strip("{}") for kind in ResourceName.__subclasses__()
}


@lru_cache(maxsize=64)
def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), re.ASCII)


def _invalid(field: str, pattern: str) -> InvalidArgument:
    bad = {field: f"must have the form {pattern}"}
    return InvalidArgument("INVALID_NAME", fields=bad, field=field, pattern=pattern)
