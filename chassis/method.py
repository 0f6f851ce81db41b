"""What the protos say about one RPC method: its kind, its access rule, whether it may be repeated."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, MethodDescriptor

from lepton.policy.v1 import policy_pb2


class Idempotency(enum.Enum):
    """Whether a method may be sent again."""

    UNKNOWN = 0
    NO_SIDE_EFFECTS = 1
    IDEMPOTENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Who may call a method; the Python form of `lepton.policy.v1.Rule`."""

    permission: str = ""
    resource: str = ""
    public: bool = False
    peers: frozenset[str] = frozenset()
    authenticated: bool = False
    pools: str = ""
    priority: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a service, described once and then looked at by every call of it."""

    path: str  # "/lepton.trainer.v1.JobService/GetJob"
    service: str
    name: str
    streams_requests: bool = False
    streams_responses: bool = False
    rule: Rule | None = None
    idempotency: Idempotency = Idempotency.UNKNOWN
    request_type: Descriptor | None = None
    is_infrastructure: bool = False  # health and reflection: no access logs, no traces

    @property
    def kind(self) -> str:
        """The kind as go-grpc-prometheus spells it."""
        if self.streams_requests:
            return "bidi_stream" if self.streams_responses else "client_stream"
        return "server_stream" if self.streams_responses else "unary"


INFRASTRUCTURE: Mapping[str, Rule] = {
    "grpc.health.v1.Health": Rule(public=True),
    "grpc.reflection.v1.ServerReflection": Rule(authenticated=True),
    "grpc.reflection.v1alpha.ServerReflection": Rule(authenticated=True),
    "grpc.channelz.v1.Channelz": Rule(authenticated=True),
}


def describe(service: str, name: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> Method:
    """The description of a method that is being registered, read from its proto."""
    found = _descriptor(service, name)
    return Method(
        path=f"/{service}/{name}",
        service=service,
        name=name,
        streams_requests=handler.request_streaming,
        streams_responses=handler.response_streaming,
        rule=INFRASTRUCTURE.get(service) or (rule_of(found) if found else None),
        idempotency=Idempotency(found.GetOptions().idempotency_level) if found else Idempotency.UNKNOWN,
        request_type=found.input_type if found else None,
        is_infrastructure=service in INFRASTRUCTURE,
    )


def rule_of(method: MethodDescriptor) -> Rule | None:
    """The access rule in the method's options; None when it has none."""
    options: descriptor_pb2.MethodOptions = method.GetOptions()
    if not options.HasExtension(policy_pb2.rule):
        return None
    rule = options.Extensions[policy_pb2.rule]
    return Rule(
        permission=rule.permission,
        resource=rule.resource,
        public=rule.public,
        peers=frozenset(rule.peers),
        authenticated=rule.authenticated,
        pools=rule.pools,
        priority=rule.priority,
    )


def _descriptor(service: str, name: str) -> MethodDescriptor | None:
    # grpc.reflection.v1 is served by v1alpha's classes, so not every name is in the pool.
    try:
        found = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return None
    method: MethodDescriptor | None = found.methods_by_name.get(name)
    return method
