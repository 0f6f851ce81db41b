"""A caller of the gateway as tests need one: unary calls with their trailing metadata, refusals with their reasons."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lepton.errors import DETAILS_KEY
from tests.harness.serving import RunningGateway, samples


def channel(front: RunningGateway) -> grpc.aio.Channel:
    """A connection of its own to a gateway."""
    credentials = grpc.ssl_channel_credentials(front.gateway.certificate.read_bytes())
    options = [("grpc.max_receive_message_length", 80 << 20), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"localhost:{front.port}", credentials, options=options)


@dataclass
class Caller:
    """A client of a running gateway, with one principal's token."""

    stub: Any
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, connection: grpc.aio.Channel, token: str) -> "Caller":
        """Somebody with a token."""
        stub = service_pb2_grpc.GRPCInferenceServiceStub(connection)
        return cls(stub, (("authorization", f"Bearer {token}"),))

    async def infer(self, model: str, *headers: tuple[str, str], rows: int = 1, timeout: float = 10) -> Any:
        """Calls; the answer with its trailing metadata as `answer.trailing`. Raises AioRpcError."""
        x, _ = samples(rows)
        request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        call = self.stub.ModelInfer(request, metadata=(*self.metadata, *headers), timeout=timeout)
        return Answer(message=await call, trailing=dict(await call.trailing_metadata()))

    async def refused(self, model: str, *headers: tuple[str, str], **options: Any) -> tuple[str, str]:
        """Calls and is refused; the code and the reason, `("OK", "")` when it was not."""
        try:
            await self.infer(model, *headers, **options)
        except grpc.aio.AioRpcError as error:
            return error.code().name, reason(error)
        return "OK", ""


@dataclass
class Answer:
    """An answer and what came behind it."""

    message: Any
    trailing: dict[str, Any]


def reason(error: grpc.aio.AioRpcError) -> str:
    """The reason in a refusal's ErrorInfo; empty when it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""
