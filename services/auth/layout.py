"""Where auth's state lies in the store: every key and prefix, in one place."""

from typing import Final

from lepton.names import (
    ApiKeyName,
    ComplianceExemptionName,
    CompliancePolicyName,
    DataLabelsName,
    OrganisationComplianceExemptionName,
    OrganisationCompliancePolicyName,
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

ROOT: Final = "/lepton/auth/"
AUTHORITY: Final = ROOT + "authority"
REQUESTS: Final = ROOT + "requests/"
PROJECTS: Final = ROOT + "projects/"
RETIRED_PROJECTS: Final = ROOT + "retiredProjects/"
USERS: Final = ROOT + "users/"
SESSIONS: Final = ROOT + "sessions/"
PROJECT_KEYS: Final = ROOT + "projectKeys/"
SHREDDED_PROJECTS: Final = ROOT + "shreddedProjects/"
AUDIT: Final = ROOT + "audit/"
AUDIT_HEAD: Final = AUDIT + "head"
AUDIT_ANCHOR: Final = AUDIT + "anchor"
AUDIT_BLOCKS: Final = AUDIT + "blocks/"
AUDIT_BATCHES: Final = AUDIT + "batches/"
AUDIT_BODIES: Final = AUDIT + "bodies/"
AUDIT_TOMBSTONES: Final = AUDIT + "tombstones/"
AUDIT_KEYS: Final = AUDIT + "keys/"

# Everything that access decisions depend on, so that one watch sees all of it.
POLICY: Final = ROOT + "policy/"
BINDINGS: Final = POLICY + "roleBindings/"
ROLES: Final = POLICY + "roles/"
PRINCIPAL_LIMITS: Final = POLICY + "principalLimits/"
REVOKED_SESSIONS: Final = POLICY + "revokedSessions/"
REVOKED_TOKENS: Final = POLICY + "revokedTokens/"
REVOKED_PRINCIPALS: Final = POLICY + "revokedPrincipals/"
SIGNING_KEYS: Final = POLICY + "signingKeys/"
COMPLIANCE_POLICIES: Final = POLICY + "compliancePolicies/"
COMPLIANCE_EXEMPTIONS: Final = POLICY + "complianceExemptions/"
DATA_LABELS: Final = POLICY + "dataLabels/"


def project(name: ProjectName) -> str:
    """A project."""
    return PROJECTS + name.project


def retired_project(name: ProjectName) -> str:
    """The mark of a deleted project, whose id is never given again."""
    return RETIRED_PROJECTS + name.project


def project_keys(name: ProjectName, purpose: str = "") -> str:
    """The versions of a project's keys, of one purpose or of all."""
    return f"{PROJECT_KEYS}{name.project}/" + (f"{purpose}/" if purpose else "")


def project_key(name: ProjectName, purpose: str, version: int) -> str:
    """A version of a project's key."""
    return f"{project_keys(name, purpose)}{version:08d}"


def shredded_project(name: ProjectName) -> str:
    """The mark of a project whose keys were destroyed."""
    return SHREDDED_PROJECTS + name.project


def user(name: UserName) -> str:
    """A user."""
    return USERS + name.user


def password(name: UserName) -> str:
    """A user's password record."""
    return f"{ROOT}passwords/{name.user}"


def service_accounts(name: ProjectName) -> str:
    """The service accounts of a project."""
    return f"{ROOT}serviceAccounts/{name.project}/"


def service_account(name: ServiceAccountName) -> str:
    """A service account."""
    return service_accounts(name.parent) + name.service_account


def api_keys(project: str = "", service_account: str = "") -> str:
    """The API keys of a service account, of a project, or all."""
    return f"{ROOT}apiKeys/" + "".join(f"{each}/" for each in (project, service_account) if each)


def project_api_keys(name: ProjectName) -> str:
    """All API keys of a project."""
    return f"{ROOT}apiKeys/{name.project}/"


def api_key(name: ApiKeyName) -> str:
    """An API key, without its secret."""
    return f"{ROOT}apiKeys/{name.project}/{name.service_account}/{name.api_key}"


def api_key_secret(uid: str) -> str:
    """How the secret of an API key is recognised, by the key's uid."""
    return f"{ROOT}apiKeySecrets/{uid}"


def secrets(name: ProjectName) -> str:
    """The secrets of a project, without their values."""
    return f"{ROOT}secrets/{name.project}/"


def secret(name: SecretName) -> str:
    """A secret, without its values."""
    return secrets(name.parent) + name.secret


def project_secret_values(name: ProjectName) -> str:
    """The sealed values of a project's secrets."""
    return f"{ROOT}secretValues/{name.project}/"


def secret_values(name: SecretName) -> str:
    """The sealed values of a secret."""
    return f"{project_secret_values(name.parent)}{name.secret}/"


def secret_value(name: SecretName, version: int) -> str:
    """The sealed value of a version."""
    return f"{secret_values(name)}{version:08d}"


def project_secret_uses(name: ProjectName) -> str:
    """When the secrets of a project were last used."""
    return f"{ROOT}secretUses/{name.project}/"


def secret_uses(name: SecretName) -> str:
    """When the versions of a secret were last used."""
    return f"{project_secret_uses(name.parent)}{name.secret}/"


def secret_use(name: SecretName, version: int) -> str:
    """When a version was last used."""
    return f"{secret_uses(name)}{version:08d}"


def secret_pin(workload_uid: str, generation: int) -> str:
    """The versions that a generation of a workload was given."""
    return f"{ROOT}secretPins/{workload_uid}/{generation}"


def federated_identity(digest: str) -> str:
    """Which user a person at an OpenID provider is, by the digest of issuer and subject."""
    return f"{ROOT}federatedIdentities/{digest}"


def user_identities(name: UserName) -> str:
    """Who a user is at OpenID providers."""
    return f"{ROOT}userIdentities/{name.user}/"


def user_identity(name: UserIdentityName) -> str:
    """Who a user is at one of them."""
    return user_identities(name.parent) + name.identity


def used_id_token(digest: str) -> str:
    """The mark of an ID token that began a session."""
    return f"{ROOT}usedIdTokens/{digest}"


def workload_trusts(project: ProjectName, service_account: str = "") -> str:
    """Whose ID tokens sign in as a service account, or as any of a project."""
    return f"{ROOT}workloadTrusts/{project.project}/" + (f"{service_account}/" if service_account else "")


def workload_trust(name: WorkloadTrustName) -> str:
    """A trust in ID tokens."""
    return workload_trusts(name.parent.parent, name.service_account) + name.workload_trust


def join_token(digest: str) -> str:
    """A join token, by its SHA-256."""
    return f"{ROOT}joinTokens/{digest}"


def sessions(name: UserName) -> str:
    """The sessions of a user."""
    return f"{SESSIONS}{name.user}/"


def session(name: UserName, session_id: str) -> str:
    """A session."""
    return sessions(name) + session_id


def bindings(parent: ProjectName | None) -> str:
    """The role bindings of a project, or of the organisation."""
    return f"{BINDINGS}projects/{parent.project}/" if parent else f"{BINDINGS}organisation/"


def binding(name: RoleBindingName | OrganisationRoleBindingName) -> str:
    """A role binding."""
    parent = name.parent if isinstance(name, RoleBindingName) else None
    return bindings(parent) + name.role_binding


def revoked_session(session_id: str) -> str:
    """The mark of a session whose access tokens are refused."""
    return REVOKED_SESSIONS + session_id


def revoked_token(token_id: str) -> str:
    """The mark of one access token that is refused."""
    return REVOKED_TOKENS + token_id


def revoked_principal(principal: str) -> str:
    """The mark of a principal whose access tokens of before a time are refused."""
    return REVOKED_PRINCIPALS + principal


def role(name: RoleName) -> str:
    """A role of the organisation's own."""
    return ROLES + name.role


def principal_limit(name: PrincipalLimitName) -> str:
    """How much some principals may use."""
    return PRINCIPAL_LIMITS + name.principal_limit


def signing_key(kid: str) -> str:
    """A key that signs access tokens."""
    return SIGNING_KEYS + kid


def audit_block(sequence: int) -> str:
    """Records that are not sealed yet, by the first one's sequence number, in the order in which they were made."""
    return f"{AUDIT_BLOCKS}{sequence:020d}"


def audit_batch(index: int) -> str:
    """The signed head of a batch."""
    return f"{AUDIT_BATCHES}{index:012d}"


def audit_body(index: int) -> str:
    """The records of a batch."""
    return f"{AUDIT_BODIES}{index:012d}"


def audit_tombstone(index: int) -> str:
    """The word that the records of a batch were deleted on purpose."""
    return f"{AUDIT_TOMBSTONES}{index:012d}"


def audit_key(key_id: str) -> str:
    """A key that signs batches."""
    return AUDIT_KEYS + key_id


def audit_aside(key: str, revision: int) -> str:
    """A block that did not hold, where `audit-repair` keeps it."""
    return f"{AUDIT}aside/{key.rpartition('/')[2]}-{revision}"


def audit_source(service: str, spool: str) -> str:
    """How far the entries of a service's spool are in the log."""
    return f"{AUDIT}sources/{service}/{spool}"


def compliance_policies(parent: ProjectName | None) -> str:
    """The compliance policies of a project, or of the organisation."""
    return f"{COMPLIANCE_POLICIES}projects/{parent.project}/" if parent else f"{COMPLIANCE_POLICIES}organisation/"


def compliance_policy(name: CompliancePolicyName | OrganisationCompliancePolicyName) -> str:
    """A compliance policy."""
    parent = name.parent if isinstance(name, CompliancePolicyName) else None
    return compliance_policies(parent) + name.compliance_policy


def project_compliance_exemptions(name: ProjectName) -> str:
    """The exemptions from all of a project's own policies."""
    return f"{COMPLIANCE_EXEMPTIONS}projects/{name.project}/"


def compliance_exemptions(policy: CompliancePolicyName | OrganisationCompliancePolicyName) -> str:
    """The exemptions from a compliance policy."""
    owner = f"projects/{policy.project}" if isinstance(policy, CompliancePolicyName) else "organisation"
    return f"{COMPLIANCE_EXEMPTIONS}{owner}/{policy.compliance_policy}/"


def compliance_exemption(name: ComplianceExemptionName | OrganisationComplianceExemptionName) -> str:
    """An exemption."""
    return compliance_exemptions(name.parent) + name.exemption


def data_labels(name: ProjectName) -> str:
    """The labels of a project's artifacts."""
    return f"{DATA_LABELS}{name.project}/"


def data_label(name: DataLabelsName) -> str:
    """The labels of an artifact."""
    return data_labels(name.parent) + name.data_labels


def compliance_findings(name: ProjectName, service: str = "") -> str:
    """What the services, or one of them, have found in a project."""
    return f"{ROOT}complianceFindings/{name.project}/{service}"
