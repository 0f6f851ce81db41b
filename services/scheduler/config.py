"""The scheduler's settings."""

from dataclasses import dataclass, field

from chassis.config import ServiceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """How the nodes' sessions are kept."""

    ttl_s: float = (
        10.0  # a node without heartbeats for so long is gone; its gangs are re-queued as long again after that
    )
    lease_ttl_s: int = (
        75  # of the leases this replica keeps the node keys under: how long etcd, or the replica, may be away
    )
    leases: int = 4  # how many leases a replica's nodes share


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """How a leader is elected and how often it plans."""

    ttl_s: int = 15
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0
    debounce_s: float = 0.003  # changes that come within this time are planned together


@dataclass(frozen=True, slots=True, kw_only=True)
class Elastic:
    """How often what runs gets more slices."""

    settled_s: float = 300.0  # no gang is resized sooner after it was placed
    cooled_s: float = 60.0  # and independent slices come back no sooner after some were taken away


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig(ServiceConfig):
    """What a scheduler replica is told."""

    service: str = "scheduler"
    etcd_endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    etcd_ca: str = ""  # PEM files for TLS to etcd; empty = plaintext
    etcd_cert: str = ""
    etcd_key: str = ""
    replica_id: str = ""  # names the replica in the election; empty = host name and process id
    nodes: Nodes = field(default_factory=Nodes)
    leader: Leader = field(default_factory=Leader)
    elastic: Elastic = field(default_factory=Elastic)
    compliance_every_s: float = (
        30.0  # how often workloads are looked at by the compliance policies; a change of those at once
    )
