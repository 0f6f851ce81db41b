"""Where auth's state lies in the store: every key and prefix, in one place."""

from typing import Final

from lepton.names import (
    ApiKeyName,
    OrganisationRoleBindingName,
    ProjectName,
    RoleBindingName,
    RoleName,
    ServiceAccountName,
    UserName,
)

ROOT: Final = "/lepton/auth/"
AUTHORITY: Final = ROOT + "authority"
REQUESTS: Final = ROOT + "requests/"
PROJECTS: Final = ROOT + "projects/"
RETIRED_PROJECTS: Final = ROOT + "retiredProjects/"
USERS: Final = ROOT + "users/"
SESSIONS: Final = ROOT + "sessions/"
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
REVOKED_SESSIONS: Final = POLICY + "revokedSessions/"
REVOKED_TOKENS: Final = POLICY + "revokedTokens/"
REVOKED_PRINCIPALS: Final = POLICY + "revokedPrincipals/"
SIGNING_KEYS: Final = POLICY + "signingKeys/"


def project(name: ProjectName) -> str:
    """A project."""
    return PROJECTS + name.project


def retired_project(name: ProjectName) -> str:
    """The mark of a deleted project, whose id is never given again."""
    return RETIRED_PROJECTS + name.project


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
