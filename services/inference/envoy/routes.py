"""Owns the values that the gateway's configuration is rendered from: what is served where, and who may call it."""

import re
from dataclasses import dataclass
from pathlib import Path

_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_MODEL = re.compile(rf"({_ID})\.{_ID}")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Endpoint:
    """One address that speaks gRPC: a replica's Triton, or the trace collector."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        host, separator, port = text.rpartition(":")
        if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"an endpoint is written host:port, not {text!r}")
        return cls(host=host, port=int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One served model: the name that clients put into their requests, and its ready replicas.

    The name is `<project>.<deployment id>`: the gateway permits a call when the token's projects hold the part before
    the dot, so a caller of another tenant cannot learn whether a model exists.
    """

    model: str
    endpoints: tuple[Endpoint, ...]
    default_timeout_s: float = 60.0
    """Deadline of a unary call that brings none; a call's own `grpc-timeout` is used as it is."""

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.model):
            raise ValueError(f"a served model is named <project>.<deployment id>, not {self.model!r}")

    @property
    def project(self) -> str:
        return self.model.partition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The whole route table; an empty one is valid and answers NOT_FOUND or UNAVAILABLE."""

    routes: tuple[Route, ...] = ()

    def __post_init__(self) -> None:
        models = [route.model for route in self.routes]
        if len(models) != len(set(models)):
            raise ValueError("a model has more than one route")

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every replica once, in a stable order."""
        return tuple(sorted({endpoint for route in self.routes for endpoint in route.endpoints}))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """Which access tokens the gateway accepts; `jwks` is the JSON text of the auth service's public keys."""

    issuer: str
    audience: str
    jwks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One Envoy: where it listens, its identity and its limits. Nothing here changes when a model comes or goes."""

    directory: Path
    """Holds the rendered files; Envoy must be able to read it and nobody else to write it."""
    tokens: TokenRules
    certificate: Path
    key: Path
    """PEM files; replacing both by rename rotates the identity without a restart."""
    host: str = "127.0.0.1"
    port: int = 0
    admin_port: int = 0
    """Loopback only. Port 0 is chosen by the kernel; `EnvoyAdmin` tells which."""
    collector: Endpoint | None = None
    """OTLP over gRPC, plaintext."""
    sampling: float = 0.01
    """Share of the calls without a `traceparent` that are traced; with one, its flag decides."""
    max_message_bytes: int = 64 << 20
    max_connections: int = 10_000
    """Connections from outside that are held at once; more are closed as they come."""
    drain_s: int = 10

    @property
    def access_log(self) -> Path:
        return self.directory / "access.log"
