"""The smallest service with every kind of call and rule, described in code: what benchmarks and chassis tests call."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from buf.validate import validate_pb2  # noqa: F401 - registers the options named below
from google.api import field_behavior_pb2  # noqa: F401
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from lepton.policy.v1 import policy_pb2  # noqa: F401

SERVICE: Final = "lepton.bench.v1.EchoService"
_FILE: Final = """
name: "lepton/bench/v1/echo.proto" package: "lepton.bench.v1" syntax: "proto3"
dependency: "buf/validate/validate.proto"
dependency: "google/api/field_behavior.proto"
dependency: "lepton/policy/v1/policy.proto"
message_type {
  name: "EchoMessage"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "text" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL
          options { [google.api.field_behavior]: REQUIRED [buf.validate.field] { string { max_len: 200000 } } } }
  field { name: "state" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL
          options { [google.api.field_behavior]: OUTPUT_ONLY } }
  field { name: "count" number: 4 type: TYPE_INT32 label: LABEL_OPTIONAL
          options { [buf.validate.field] { int32 { gte: 0 lte: 1000 } } } }
  field { name: "inner" number: 5 type: TYPE_MESSAGE type_name: ".lepton.bench.v1.EchoMessage" label: LABEL_OPTIONAL }
  field { name: "children" number: 6 type: TYPE_MESSAGE type_name: ".lepton.bench.v1.EchoMessage"
          label: LABEL_REPEATED }
}
message_type {
  name: "PingMessage"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL
          options { [google.api.field_behavior]: REQUIRED [buf.validate.field] { string { max_len: 512 } } } }
  field { name: "text" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL
          options { [buf.validate.field] { string { max_len: 1024 } } } }
}
service {
  name: "EchoService"
  method { name: "Ping" RULE_PING }
  method { name: "Echo" RULE_PERMISSION QUERY }
  method { name: "Change" RULE_PERMISSION }
  method { name: "Anyone" RULE_PUBLIC QUERY }
  method { name: "SignedIn" RULE_AUTHENTICATED QUERY }
  method { name: "ForPeers" RULE_PEERS QUERY }
  method { name: "WatchPeers" RULE_PEERS QUERY server_streaming: true }
  method { name: "Forgotten" NO_RULE }
  method { name: "Watch" RULE_PERMISSION_STREAM server_streaming: true }
  method { name: "Collect" RULE_PERMISSION_STREAM client_streaming: true }
  method { name: "Chat" RULE_PERMISSION_STREAM client_streaming: true server_streaming: true }
}
"""
_TYPES: Final = 'input_type: ".lepton.bench.v1.EchoMessage" output_type: ".lepton.bench.v1.EchoMessage"'
_MACROS: Final = {
    " QUERY": "",
    "RULE_PERMISSION_STREAM": (
        'TYPES options { [lepton.policy.v1.rule] { permission: "echoes.watch" resource: "name" } }'
    ),
    "RULE_PERMISSION QUERY": (
        "TYPES options { idempotency_level: NO_SIDE_EFFECTS "
        '[lepton.policy.v1.rule] { permission: "echoes.get" resource: "name" peers: "scheduler" } }'
    ),
    "RULE_PERMISSION": 'TYPES options { [lepton.policy.v1.rule] { permission: "echoes.change" resource: "name" } }',
    "RULE_PING": (
        'input_type: ".lepton.bench.v1.PingMessage" output_type: ".lepton.bench.v1.PingMessage" '
        "options { idempotency_level: NO_SIDE_EFFECTS "
        '[lepton.policy.v1.rule] { permission: "echoes.get" resource: "name" } }'
    ),
    "RULE_PUBLIC": "TYPES options { [lepton.policy.v1.rule] { public: true } }",
    "RULE_AUTHENTICATED": "TYPES options { [lepton.policy.v1.rule] { authenticated: true } }",
    "RULE_PEERS": 'TYPES options { [lepton.policy.v1.rule] { peers: "scheduler" peers: "agent" } }',
    "NO_RULE": "TYPES",
    "TYPES": _TYPES,
}


def _message_classes() -> tuple[Any, Any]:
    text = _FILE
    for macro in ("RULE_PERMISSION QUERY", *_MACROS):
        text = text.replace(macro, _MACROS[macro])
    file = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    echo, ping = (pool.FindMessageTypeByName(f"lepton.bench.v1.{name}Message") for name in ("Echo", "Ping"))
    return message_factory.GetMessageClass(echo), message_factory.GetMessageClass(ping)


EchoMessage, PingMessage = _message_classes()
_KINDS: Final[Mapping[str, tuple[Callable[..., Any], str]]] = {
    "Watch": (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    "WatchPeers": (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    "Collect": (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    "Chat": (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}
_UNARY: Final = (grpc.unary_unary_rpc_method_handler, "unary_unary")
METHODS: Final = ("Ping", "Echo", "Change", "Anyone", "SignedIn", "ForPeers", "Forgotten", *_KINDS)


def add_echo_to_server(servicer: Any, server: Any) -> None:
    """What generated code would offer."""
    handlers = {
        name: _KINDS.get(name, _UNARY)[0](
            getattr(servicer, name),
            request_deserializer=_message(name).FromString,
            response_serializer=_message(name).SerializeToString,
        )
        for name in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


def _message(method: str) -> Any:
    return PingMessage if method == "Ping" else EchoMessage


class EchoStub:
    """The client's side."""

    def __init__(self, channel: Any) -> None:
        for name in METHODS:
            make = getattr(channel, _KINDS.get(name, _UNARY)[1])
            call = make(
                f"/{SERVICE}/{name}",
                request_serializer=_message(name).SerializeToString,
                response_deserializer=_message(name).FromString,
            )
            setattr(self, name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Echo:
    """Answers what it is sent."""

    async def Echo(self, request: Any, context: Any) -> Any:
        """The request itself."""
        return request

    Ping = Change = Anyone = SignedIn = ForPeers = Forgotten = Echo

    async def Watch(self, request: Any, context: Any) -> Any:
        """The request, `count` times."""
        for _ in range(request.count):
            yield request

    WatchPeers = Watch

    async def Collect(self, requests: Any, context: Any) -> Any:
        """How many messages came, as the count."""
        count = 0
        async for _ in requests:
            count += 1
        return EchoMessage(count=count)

    async def Chat(self, requests: Any, context: Any) -> Any:
        """Every message back."""
        async for request in requests:
            yield request
