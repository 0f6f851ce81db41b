"""MLServer's own stubs, types and codecs against a gateway: `python mlserver_flow.py ADDRESS CERTIFICATE TOKEN MODEL`.

Runs in MLServer's Python. The model adds and subtracts two INT32 tensors of 16. Prints one JSON object of what was
seen. Not tried: its ModelStreamInfer, whose answers are another message than Triton's.
"""

import json
import sys
from pathlib import Path

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.grpc import converters, dataplane_pb2, model_repository_pb2, model_repository_pb2_grpc
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest


def main(address: str, certificate: str, token: str, model: str) -> None:
    bearer = (("authorization", f"Bearer {token}"),)
    one, other = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    inputs = [NumpyCodec.encode_input("INPUT0", one), NumpyCodec.encode_input("INPUT1", other)]
    request = InferenceRequest(inputs=inputs)
    seen: dict[str, object] = {}
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(Path(certificate).read_bytes())) as channel:
        stub = GRPCInferenceServiceStub(channel)
        given = {"metadata": bearer, "timeout": 20}
        seen["live"] = stub.ServerLive(dataplane_pb2.ServerLiveRequest(), **given).live
        seen["ready"] = stub.ServerReady(dataplane_pb2.ServerReadyRequest(), **given).ready
        seen["model ready"] = stub.ModelReady(dataplane_pb2.ModelReadyRequest(name=model), **given).ready
        about = stub.ModelMetadata(dataplane_pb2.ModelMetadataRequest(name=model), **given)
        seen["metadata"] = [tensor.name for tensor in about.inputs]
        sent = converters.ModelInferRequestConverter.from_types(request, model_name=model)
        answer = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(sent, **given))
        seen["typed"] = [NumpyCodec.decode_output(output).ravel().tolist() for output in answer.outputs]
        both = converters.ModelInferRequestConverter.from_types(request, model_name=model, use_raw=True)
        for tensor in both.inputs:
            tensor.ClearField("contents")  # it leaves an empty one, which Triton takes for a second form of the data
        answer = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(both, **given))
        seen["raw"] = [NumpyCodec.decode_output(output).ravel().tolist() for output in answer.outputs]
        repository = model_repository_pb2_grpc.ModelRepositoryServiceStub(channel)
        calls = {
            "index": lambda: stub.RepositoryIndex(model_repository_pb2.RepositoryIndexRequest(), **given),
            "repository": lambda: repository.RepositoryIndex(model_repository_pb2.RepositoryIndexRequest(), **given),
            "no token": lambda: stub.ModelInfer(sent, timeout=20),
        }
        for what, call in calls.items():
            try:
                call()
            except grpc.RpcError as error:
                seen[what] = error.code().name
    print(json.dumps(seen))


main(*sys.argv[1:])
