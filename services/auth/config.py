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

    [identity]
    state_dir = "/.../state/auth"                # keeps the serving certificate
    trust_bundle = "/.../ca.pem"                 # `init` writes the mesh's CA certificate here
    hosts = ["auth.example.com"]                 # advertised names and addresses, beside localhost, auth and 127.0.0.1

[listen], [telemetry] and [limits] as for every service (chassis.config). Environment: LEPTON_AUTH_<SECTION>__<KEY>.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from chassis import config as settings
from chassis.config import ConfigError, ServiceConfig
from chassis.etcd import TLS
from services.auth.passwords import MEMORY_KIB


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
        if not self.ca_file:
            return None
        certificate, key = (Path(each) if each else None for each in (self.certificate_file, self.key_file))
        return TLS(ca=Path(self.ca_file), certificate=certificate, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long what auth hands out is good for, in seconds."""

    access_token_s: int = 300
    session_s: int = 7 * 24 * 3600
    certificate_s: int = 3600


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

    def __post_init__(self) -> None:
        for name in ("issuer", "audience"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must not be empty: tokens without it would be valid anywhere")
        for name in ("state_dir", "trust_bundle"):
            if not getattr(self.identity, name):
                raise ConfigError(f"missing setting identity.{name}")


def load(path: Path) -> AuthConfig:
    """The configuration in a file, for the commands beside serving."""
    return settings.load(AuthConfig, path, env_prefix="LEPTON_AUTH_", environ=dict(os.environ))
