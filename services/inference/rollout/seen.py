"""What was last seen of a revision that has, or is to have, replicas; and what that is made of. Pure."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from chassis.replica_channels import server_name
from lepton.inference.v1.deployment_pb2 import Replica
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.inference.v1.rollout_pb2 import RolloutStatus
from lepton.scheduler.v1.workload_pb2 import Slice, Workload

_GONE: Final = frozenset({Slice.SUCCEEDED, Slice.FAILED, Slice.STOPPED, Slice.LOST})
_OVER: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One revision as it is."""

    revision: int
    is_prepared: bool = False
    """What its servers load has been made."""
    failure: str = ""
    """Why it cannot be served; empty = it can, as far as is known."""
    blocked: str = ""
    """Why the gateways send it no calls though its replicas answer: one of its versions is quarantined."""
    routed: int = 0
    """How many replicas have proved themselves and get calls from the gateway when it is told to send some."""
    endpoint: str = ""
    """One of these replicas, `host:port`,"""
    server_name: str = ""
    """and the name in its certificate; empty where it speaks plaintext."""
    has_calls: bool = False
    """Calls without the header go to it."""
    workload: str = ""
    repository: str = ""
    message: str = ""
    replicas: tuple[Replica, ...] = ()


def look(
    target: RolloutStatus.Target,
    revision: DeploymentRevision,
    workload: Workload | None,
    routed: Collection[str],
    blocked: str = "",
) -> Seen:
    """What a revision's document, its replicas' workload and the gateway's answer say together."""
    failure = revision.message if revision.state == DeploymentRevision.FAILED else ""
    if workload is not None and workload.state in _OVER:
        failure = failure or workload.message or "its replicas have ended"
    replicas = tuple(
        Replica(
            index=piece.index,
            node=piece.node,
            is_ready=piece.state == Slice.READY and piece.endpoints.get("grpc", "") in routed,
            message=piece.message,
            revision=target.revision,
        )
        for piece in (workload.slices if workload is not None else ())
        if piece.state not in _GONE
    )
    ready = [
        (address, server_name(piece.node, piece.facts))
        for piece in (workload.slices if workload is not None else ())
        if piece.state == Slice.READY and (address := piece.endpoints.get("grpc", "")) in routed
    ]
    return Seen(
        revision=target.revision,
        is_prepared=bool(revision.models),
        failure=failure,
        blocked=blocked,
        routed=sum(replica.is_ready for replica in replicas),
        endpoint=next((address for address, _ in ready), ""),
        server_name=next((name for _, name in ready), ""),
        has_calls=target.weight > 0,
        workload="" if workload is None else workload.name,
        repository=revision.models[0].repository if revision.models else "",
        message=revision.message if workload is None else workload.message,
        replicas=replicas,
    )
