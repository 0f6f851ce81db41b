"""Where auth's state lies in the store: every key and prefix, in one place."""

from typing import Final

from lepton.names import (
    ApiKeyName,
    OrganisationRoleBindingName,
    ProjectName,
    RoleBindingName,
    ServiceAccountName,
    UserName,
)

ROOT: Final = "/lepton/auth/"
AUTHORITY: Final = ROOT + "authority"
REQUESTS: Final = ROOT + "requests/"
PROJECTS: Final = ROOT + "projects/"
RETIRED_PROJECTS: Final = ROOT + "retiredProjects/"
USERS: Final = ROOT + "users/"
AUDIT_HEAD: Final = ROOT + "audit/head"
AUDIT_RECORDS: Final = ROOT + "audit/records/"

# Everything that access decisions depend on, so that one watch sees all of it.
POLICY: Final = ROOT + "policy/"
BINDINGS: Final = POLICY + "roleBindings/"
REVOKED_SESSIONS: Final = POLICY + "revokedSessions/"
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
    return f"{ROOT}sessions/{name.user}/"


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


def signing_key(kid: str) -> str:
    """A key that signs access tokens."""
    return SIGNING_KEYS + kid


def audit_record(sequence: int) -> str:
    """A record of the audit trail."""
    return f"{AUDIT_RECORDS}{sequence:016d}"
