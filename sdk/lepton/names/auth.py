"""Names of the auth service's resources."""

from dataclasses import dataclass
from typing import ClassVar

from lepton.names.resource import CHOSEN, HEX, ResourceName


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
    shapes: ClassVar[dict[str, str]] = {"api_key": CHOSEN}
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
    shapes: ClassVar[dict[str, str]] = {"identity": HEX}
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
    shapes: ClassVar[dict[str, str]] = {"role_binding": CHOSEN}
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
    shapes: ClassVar[dict[str, str]] = {"role_binding": CHOSEN}
    role_binding: str
