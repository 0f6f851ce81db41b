"""The Open Inference Protocol v2 (gRPC) as its specification has it, and nothing of Triton's, in a pool of its own.

A client that was generated from the standard alone sends these messages. They cannot live beside tritonclient's in one
pool: both are called `inference.ModelInferRequest`.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_SCALARS: Final = {"string": "STRING", "bool": "BOOL", "int64": "INT64", "uint64": "UINT64", "double": "DOUBLE"} | {
    "bytes": "BYTES", "int32": "INT32", "uint32": "UINT32", "float": "FLOAT"
}  # fmt: skip
_MESSAGES: Final = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string* extensions",
    "ModelMetadataRequest": "string name, string version",
    "TensorMetadata": "string name, string datatype, int64* shape",
    "ModelMetadataResponse": (
        "string name, string* versions, string platform, TensorMetadata* inputs, TensorMetadata* outputs"
    ),
    "InferTensorContents": (
        "bool* bool_contents, int32* int_contents, int64* int64_contents, uint32* uint_contents, "
        "uint64* uint64_contents, float* fp32_contents, double* fp64_contents, bytes* bytes_contents"
    ),
    # Field 4 of a tensor is a map of parameters, which a plain client leaves out.
    "InferInputTensor": "string name, string datatype, int64* shape, - _, InferTensorContents contents",
    "InferRequestedOutputTensor": "string name",
    "InferOutputTensor": "string name, string datatype, int64* shape, - _, InferTensorContents contents",
    "ModelInferRequest": (
        "string model_name, string model_version, string id, - _, InferInputTensor* inputs, "
        "InferRequestedOutputTensor* outputs, bytes* raw_input_contents"
    ),
    "ModelInferResponse": (
        "string model_name, string model_version, string id, - _, InferOutputTensor* outputs, "
        "bytes* raw_output_contents"
    ),
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    parts = ['name: "open_inference_grpc.proto" package: "inference" syntax: "proto3"']
    for name, fields in _MESSAGES.items():
        written = [_field(number, one) for number, one in enumerate(fields.split(", "), start=1) if one.strip()]
        parts.append(f'message_type {{ name: "{name}" {" ".join(written)} }}')
    return text_format.Parse("\n".join(parts), descriptor_pb2.FileDescriptorProto())


def _field(number: int, text: str) -> str:
    kind, name = text.split()
    if kind == "-":
        return ""
    label = "REPEATED" if kind.endswith("*") else "OPTIONAL"
    kind = kind.rstrip("*")
    typed = f"type: TYPE_{_SCALARS[kind]}" if kind in _SCALARS else f'type_name: ".inference.{kind}"'
    return f'field {{ name: "{name}" number: {number} label: LABEL_{label} {typed} }}'


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(_file().SerializeToString())


def message(name: str) -> Any:
    """The class of a message, by its name in the specification."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


def call(channel: Any, method: str) -> Any:
    """One of the six methods, on a channel."""
    return channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=message(f"{method}Request").SerializeToString,
        response_deserializer=message(f"{method}Response").FromString,
    )
