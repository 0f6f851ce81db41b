"""OpenID providers as configuration of auth; what would let in more than was meant is an error at the start.

[oidc.corp]
issuer = "https://login.example.com"     # `iss`, exactly; required
client_id = "lepton"                     # `aud` of people's ID tokens
display_name = "Example login"
algorithms = ["RS256", "ES256", "EdDSA"] # that ID tokens may be signed with; never none or HS*
scopes = ["openid", "email", "profile"]  # that `lepton login --oidc` asks for
other_audiences = []                     # further `aud` values that may stand beside client_id, with `azp`
public_client_secret = ""                # what some providers give installed applications; no secret
max_age_s = 3600                         # how long ago an ID token may have been issued
session_s = 43200                        # of a session that the provider began, however often it is refreshed
create_users = false                     # who is not linked to a user yet gets one of their own
match_email_domain = ""                  # or is linked to the user whose id is their verified address's local part
groups_claim = "groups"

[[oidc.corp.grants]]                     # what a group gives, from one sign-in to the next
group = "ml-engineers"
role = "roles/developer"
project = "acme"                         # left out: the whole organisation

[oidc.github]
issuer = "https://token.actions.githubusercontent.com"
workload_audiences = ["lepton"]          # `aud` of programs' ID tokens that service accounts may trust
workload_subjects = ["repo:acme/"]       # what every `sub` that is trusted begins with

# How the provider's documents are fetched.
jwks_file = ""                           # its keys from a file instead: nothing is fetched
allow_http = false
networks = []                            # not public, but may be reached: ["10.20.0.0/16"]
ca_file = ""                             # PEM of the authorities to trust instead of the system's
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from chassis.config import ConfigError
from chassis.fetching import FetchRules, Network, UrlRefused, checked_url
from lepton.names import ID

# By key type: an algorithm is taken only with a key of its type (RFC 8725, 3.1).
ALGORITHMS: Final = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC", "EdDSA": "OKP",
}  # fmt: skip
GRANTS: Final = 32  # a sign-in writes them in one transaction
_DOCUMENT_BYTES: Final = 256 << 10
_TIMEOUT_S: Final = 5.0
_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGrant:
    """A role that a group of the provider's gives."""

    group: str
    role: str
    project: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcProvider:
    """One provider."""

    issuer: str
    client_id: str = ""
    display_name: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    other_audiences: tuple[str, ...] = ()
    public_client_secret: str = ""
    max_age_s: int = 3600
    session_s: int = 12 * 3600
    create_users: bool = False
    match_email_domain: str = ""
    groups_claim: str = "groups"
    grants: tuple[GroupGrant, ...] = ()
    workload_audiences: tuple[str, ...] = ()
    workload_subjects: tuple[str, ...] = ()
    jwks_file: str = ""
    allow_http: bool = False
    networks: tuple[str, ...] = ()
    ca_file: str = ""

    @property
    def rules(self) -> FetchRules:
        """How its documents are fetched."""
        return FetchRules(
            allow_http=self.allow_http,
            networks=_networks(self.networks),
            max_bytes=_DOCUMENT_BYTES,
            timeout_s=_TIMEOUT_S,
            ca_file=Path(self.ca_file) if self.ca_file else None,
        )


def check_providers(providers: Mapping[str, OidcProvider], own_issuer: str) -> None:
    """ConfigError naming the setting that would not hold."""
    issuers: dict[str, str] = {}
    for name, provider in providers.items():
        where = f"oidc.{name}"
        if not re.fullmatch(ID, name):
            raise ConfigError(f"{where}: a provider's name has lower-case letters, digits and hyphens")
        _check(provider, where)
        if provider.issuer == own_issuer:
            raise ConfigError(f"{where}.issuer is auth's own issuer")
        if provider.issuer in issuers:
            raise ConfigError(f"{where}.issuer is that of oidc.{issuers[provider.issuer]} already")
        issuers[provider.issuer] = name


def _check(provider: OidcProvider, where: str) -> None:
    if not provider.issuer:
        raise ConfigError(f"{where}.issuer must not be empty: anybody's tokens would be valid")
    try:
        parts = checked_url(provider.issuer, allow_http=provider.allow_http)
    except UrlRefused as error:
        raise ConfigError(f"{where}.issuer: {error}") from None
    if parts.query:
        raise ConfigError(f"{where}.issuer: an issuer has no query")
    if not provider.client_id and not provider.workload_audiences:
        raise ConfigError(
            f"{where} needs client_id (for people) or workload_audiences (for programs): without an audience, "
            "tokens that were made for others would be valid"
        )
    if not all(provider.workload_audiences) or not all(provider.other_audiences):
        raise ConfigError(f"{where}: an audience must not be empty")
    if provider.client_id in provider.workload_audiences:
        raise ConfigError(f"{where}.workload_audiences must not hold client_id: people's tokens would be programs'")
    unknown = sorted(set(provider.algorithms) - set(ALGORITHMS))
    if unknown or not provider.algorithms:
        raise ConfigError(
            f"{where}.algorithms: {unknown[0] if unknown else 'none given'!r}; choose of {', '.join(ALGORITHMS)}"
        )
    if provider.client_id and "openid" not in provider.scopes:
        raise ConfigError(f"{where}.scopes must hold openid, or the provider gives no ID token")
    if provider.max_age_s < 60 or provider.session_s < 300:
        raise ConfigError(f"{where}: max_age_s must be 60 or more, session_s 300 or more")
    if provider.match_email_domain and not _DOMAIN.fullmatch(provider.match_email_domain):
        raise ConfigError(f"{where}.match_email_domain must be one domain in lower case, for example example.com")
    try:
        _networks(provider.networks)
    except ValueError as error:
        raise ConfigError(f"{where}.networks: {error}") from None
    _check_grants(provider.grants, where)


def _check_grants(grants: Sequence[GroupGrant], where: str) -> None:
    for each in grants:
        if not each.group or not re.fullmatch(f"roles/{ID}", each.role):
            raise ConfigError(f"{where}.grants: a grant names a group and a role, for example roles/developer")
        if each.project and not re.fullmatch(ID, each.project):
            raise ConfigError(f"{where}.grants: {each.project!r} is no project's id")
    if len({(each.role, each.project) for each in grants}) > GRANTS:
        raise ConfigError(f"{where}.grants give more than {GRANTS} different roles; make a custom role of some")


def _networks(texts: Sequence[str]) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))
