"""The configuration of the auth service.

    issuer = "https://lepton.local"              # `iss` of access tokens; required
    audience = "lepton"                          # `aud` of access tokens; required
    kek_file = "/.../auth/kek"                   # key-encryption key; `init` makes it, all replicas share it
    bootstrap_password_file = "/.../admin.password"  # `init` writes the password of users/admin here
    password_memory_kib = 47104                  # memory that hashing a password takes (Argon2id); optional

    [etcd]
    endpoints = ["127.0.0.1:2379"]
    ca_file = ""                                 # PEM; empty = plaintext, for loopback only
    certificate_file = ""                        # where etcd asks for client certificates
    key_file = ""

    [lifetimes]
    access_token_s = 300
    session_s = 604800                           # of a password session, however often it is refreshed
    certificate_s = 3600
    serving_certificate_s = 604800               # of model servers, which read theirs once, when they start

    [audit_log]
    seal_records = 1024                          # a batch is signed when it has so many,
    seal_within_s = 5.0                          # or when its oldest record is so old
    keep_days = 0                                # older records are deleted, provably; 0 = never
    key_days = 90                                # how long a key signs

    [project_keys]
    keyring_file = ""                            # its first key wraps the keys of projects; `keyring-add` makes it
    kms_key_id = ""                              # or a key of AWS KMS does: its id, ARN or alias
    kms_region = ""
    kms_endpoint_url = ""                        # where KMS is reached otherwise than usual
    rewrap_every_s = 60.0                        # how often what a former key wrapped is looked for
    retire_after_s = 3600.0                      # a project's former key is kept for so long, then while it is needed

    [identity]
    state_dir = "/.../state/auth"                # keeps the serving certificate
    trust_bundle = "/.../ca.pem"                 # `init` writes the mesh's CA certificate here
    hosts = ["auth.example.com"]                 # advertised names and addresses, beside localhost, auth and 127.0.0.1

    [throttle]                                   # failed sign-ins at once, and after how many seconds one more
    pair_failures = 10                           # for an account from one address
    pair_refill_s = 30.0
    account_failures = 50                        # for an account from addresses that it never signed in from
    account_refill_s = 10.0
    address_failures = 100                       # from an address, or an IPv6 /64
    address_refill_s = 2.0

[oidc.<name>] for each OpenID provider: services/auth/oidc/settings.py.
[listen], [telemetry] and [limits] as for every service (chassis.config). Environment: LEPTON_AUTH_<SECTION>__<KEY>.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from chassis import config as settings
from chassis.config import ConfigError, ServiceConfig
from chassis.etcd import TLS
from services.auth.audit_log.sealer import Sealing
from services.auth.key_providers import ProjectKeySettings
from services.auth.oidc.settings import OidcProvider, check_providers
from services.auth.passwords import MEMORY_KIB
from services.auth.throttle import ThrottleSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Etcd:
    """Where the state lies."""

    endpoints: tuple[str, ...]
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    @property
    def tls(self) -> TLS | None:
        """How to trust etcd; None for plaintext."""
        return TLS.of_files(self.ca_file, self.certificate_file, self.key_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long what auth hands out is good for, in seconds."""

    access_token_s: int = 300
    session_s: int = 7 * 24 * 3600
    certificate_s: int = 3600
    serving_certificate_s: int = 7 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLog:
    """How the audit log is sealed and kept."""

    seal_records: int = 1024
    seal_within_s: float = 5.0
    keep_days: int = 0
    key_days: int = 90

    def __post_init__(self) -> None:
        if not 1 <= self.seal_records <= 4096:
            raise ConfigError("audit_log.seal_records must be between 1 and 4096")
        if self.seal_within_s <= 0 or self.keep_days < 0 or self.key_days < 1:
            raise ConfigError("audit_log: seal_within_s and key_days must be more than 0, keep_days not less than 0")

    @property
    def sealing(self) -> Sealing:
        """When to seal and to delete."""
        keep = timedelta(days=self.keep_days) if self.keep_days else None
        return Sealing(records=self.seal_records, within=timedelta(seconds=self.seal_within_s), keep=keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig(ServiceConfig):
    """Everything that the auth service is told."""

    service: str = "auth"
    issuer: str
    audience: str
    kek_file: Path
    bootstrap_password_file: Path
    etcd: Etcd
    password_memory_kib: int = MEMORY_KIB  # what hashing a password costs; lower it only for tests
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    audit_log: AuditLog = field(default_factory=AuditLog)
    project_keys: ProjectKeySettings = field(default_factory=ProjectKeySettings)
    oidc: Mapping[str, OidcProvider] = field(default_factory=dict)
    throttle: ThrottleSettings = field(default_factory=ThrottleSettings)

    def __post_init__(self) -> None:
        for name in ("issuer", "audience"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must not be empty: tokens without it would be valid anywhere")
        for name in ("state_dir", "trust_bundle"):
            if not getattr(self.identity, name):
                raise ConfigError(f"missing setting identity.{name}")
        check_providers(self.oidc, self.issuer)


def load(path: Path) -> AuthConfig:
    """The configuration in a file, for the commands beside serving."""
    return settings.load(AuthConfig, path, env_prefix="LEPTON_AUTH_", environ=dict(os.environ))
