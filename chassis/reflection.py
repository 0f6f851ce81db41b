"""Server reflection, v1 and v1alpha, over every service of a server."""

from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_V1_FILE: Final = "grpc/reflection/v1/reflection.proto"


def add_reflection(server: Any, services: Sequence[str]) -> None:
    """Serve reflection for these services, its own included."""
    servicer = ReflectionServicer([*services, *SERVICES], pool=_pool())
    # The package only registers v1alpha; v1 has the same messages under another name.
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for service in SERVICES:
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        server.add_registered_method_handlers(service, methods)


def _pool() -> descriptor_pool.DescriptorPool:
    """The process's descriptors, with those of reflection v1, which the package lacks.

    A service that is listed but cannot be described makes clients give up on the whole list.
    """
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        alpha = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        pool.AddSerializedFile(_as_v1(alpha).SerializeToString())
    return pool


def _as_v1(alpha: FileDescriptorProto) -> FileDescriptorProto:
    """v1alpha's file under v1's names: it is the same protocol."""
    file = FileDescriptorProto()
    file.CopyFrom(alpha)
    file.name, file.package = _V1_FILE, "grpc.reflection.v1"
    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    return file
