"""Owns the values that the gateway's configuration is rendered from: what is served where, and who may call it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.inference.envoy.access import CallRules

_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_MODEL = re.compile(rf"({_ID})\.{_ID}")
_METADATA_KEY = re.compile(r"lepton-[a-z0-9-]{1,48}")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Endpoint:
    """One address that speaks gRPC: a replica's Triton, or the trace collector."""

    host: str
    port: int
    engine: str = field(default="", compare=False)
    """What runs the model there, as its answers tell (`lepton-engine`); empty = nobody knows."""
    name: str = field(default="", compare=False)
    """The DNS name in its certificate: it takes mutual TLS only. Empty = plaintext, on this machine only."""

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        host, separator, port = text.rpartition(":")
        if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"an endpoint is written host:port, not {text!r}")
        return cls(host=host, port=int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One revision of a deployment, as the gateway sees it."""

    revision: int
    endpoints: tuple[Endpoint, ...]
    weight: int = 100
    """Its part of the sum of the route's weights; 0 = it answers only calls that name it in `lepton-revision`."""
    lineage: tuple[tuple[str, str], ...] = ()
    """Trailing metadata of its answers, for example `("lepton-model-version", "sha256:...")`."""

    def __post_init__(self) -> None:
        if self.revision < 1:
            raise ValueError(f"a revision is a number from 1, not {self.revision}")
        if not 0 <= self.weight <= 1_000_000:
            raise ValueError(f"the weight of revision {self.revision} must be 0 to 1000000, not {self.weight}")
        for key, value in self.lineage:
            if not _METADATA_KEY.fullmatch(key) or not value.isascii() or not value.isprintable():
                raise ValueError(f"lineage is lepton-...: printable ASCII, not {key!r}: {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """Copies of unary calls go to this revision too; Envoy drops its answers."""

    revision: int
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share of a shadow is 0 to 1, not {self.share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLimits:
    """What one deployment's callers may ask of it; 0 = no limit of its own."""

    max_deadline_s: float = 0.0
    """A unary call ends by then, whatever deadline it brings."""
    requests_per_s: float = 0.0
    """Of all callers together."""
    requests_per_s_per_caller: float = 0.0
    """Of each principal."""
    burst_s: float = 1.0
    """So many seconds' worth may come at once."""
    max_in_flight: int = 0
    """Calls at one revision at once; more are refused with RESOURCE_EXHAUSTED."""
    max_stream_s: float = 3600.0
    """A stream ends by then, so that a permission taken back does not outlive it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One served model: the name that clients put into their requests, and the revisions that answer it.

    The name is `<project>.<deployment id>`: the gateway permits a call by that name before it looks whether the model
    exists, so a caller of another tenant cannot learn that.
    """

    model: str
    targets: tuple[Target, ...]
    shadow: Shadow | None = None
    holder: Endpoint | None = None
    """Who gets calls while no replica can: it holds them until one is there."""
    default_timeout_s: float = 60.0
    """Deadline of a unary call that brings none; a call's own `grpc-timeout` is used as it is."""
    limits: RouteLimits = RouteLimits()
    above: str = ""
    """The model whose version is served, `projects/{p}/models/{m}`: a role on it counts as one on the deployment."""

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.model):
            raise ValueError(f"a served model is named <project>.<deployment id>, not {self.model!r}")
        revisions = [target.revision for target in self.targets]
        if len(revisions) != len(set(revisions)):
            raise ValueError(f"{self.model} has two targets of one revision")
        if self.shadow is not None and self.shadow.revision not in revisions:
            raise ValueError(f"the shadow of {self.model} is not a target; add revision {self.shadow.revision}")

    @property
    def project(self) -> str:
        """The tenant whose model it is."""
        return self.model.partition(".")[0]

    def cluster(self, revision: int) -> str:
        """The name of a revision's cluster."""
        return cluster_name(self.model, revision)

    def shares(self) -> tuple[tuple[Target, int], ...]:
        """Who gets calls that name no revision, and its weight.

        One without replicas gets none as long as another has some; when none has, the holder answers for all.
        """
        weighted = [target for target in self.targets if target.weight]
        alive = [target for target in weighted if target.endpoints] or weighted
        return tuple((target, target.weight) for target in alive)


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
        return tuple(sorted({each for _, target in self.targets() for each in target.endpoints}))

    def targets(self) -> Iterator[tuple[Route, Target]]:
        """Every revision with its route."""
        return ((route, target) for route in self.routes for target in route.targets)


def cluster_name(model: str, revision: int) -> str:
    """Envoy's name for one revision of a model."""
    return f"{model}@r{revision}"


def of_cluster(name: str) -> tuple[str, int] | None:
    """The model and revision of a cluster's name; None for clusters that are none."""
    model, separator, revision = name.rpartition("@r")
    return (model, int(revision)) if separator and revision.isdigit() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """Which access tokens the gateway accepts; `jwks` is the JSON text of the auth service's public keys."""

    issuer: str
    audience: str
    jwks: str
    calls: CallRules = field(default_factory=CallRules)
    """What those who hold such tokens may call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One Envoy: where it listens, its identity and its limits. Nothing here changes when a model comes or goes."""

    directory: Path
    """Holds the rendered files; Envoy must be able to read it and nobody else to write it."""
    tokens: TokenRules
    certificate: Path
    key: Path
    """PEM files; replacing both by rename rotates the identity without a restart."""
    roots: Path | None = None
    """PEM file of the authorities whose certificates replicas must have; None = all of them speak plaintext."""
    host: str = "127.0.0.1"
    port: int = 0
    admin_port: int = 0
    """Loopback only. Port 0 is chosen by the kernel; `EnvoyAdmin` tells which."""
    collector: Endpoint | None = None
    """OTLP over gRPC: over TLS, where its certificate must be for `name`; without a name, plaintext."""
    collector_roots: Path | None = None
    """PEM file of the authorities that this certificate may be of; None = `roots`."""
    sampling: float = 0.01
    """Share of the calls without a `traceparent` that are traced; with one, its flag decides."""
    max_message_bytes: int = 64 << 20
    max_connections: int = 10_000
    """Connections from outside that are held at once; more are closed as they come."""
    drain_s: int = 10
    streams: Endpoint | None = None
    """Who is told of every stream that opens, and may end it."""
    holder_key: str = ""
    """Proves to the holder of calls that they have come through this gateway; a secret of the service and its Envoy."""

    @property
    def access_log(self) -> Path:
        return self.directory / "access.log"
