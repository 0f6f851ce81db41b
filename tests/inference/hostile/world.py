"""What the hostile callers meet: a gateway, replicas of several models, and a witness who calls the good one on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2

from lepton.golden import Golden
from lepton.models import Signature, Tensor
from services.agent.served_model import ServedModel
from services.agent.triton_server import TritonServer
from services.inference.envoy import Endpoint, Routes
from services.inference.triton_repository import render
from tests.harness.gateway_caller import reason
from tests.harness.serving import WEIGHTS, Replica, RunningGateway, gateway, replica, samples, served_model
from tests.inference.clients.example_models import example_models
from tests.inference.clients.stack import routes, served

GOOD, ELASTIC = "demo.digits", "demo.elastic"
SERVICE = "/inference.GRPCInferenceService/"
_EXAMPLES = {"demo.simple", "demo.simple-identity", "demo.simple-sequence", "demo.repeat-int32"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call ended."""

    code: str
    text: str
    reason: str = ""


@dataclass
class Witness:
    """Calls the good model, one call after another, and checks every answer."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)

    async def watch(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> None:
        x, logits = samples(2)
        request = message(GOOD, "x", x, "FP32").SerializeToString()
        infer = channel.unary_unary(
            f"{SERVICE}ModelInfer", response_deserializer=service_pb2.ModelInferResponse.FromString
        )
        while True:
            try:
                answer = await infer(request, metadata=metadata, timeout=30)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")
                continue
            actual = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(logits.shape)
            if not np.allclose(actual, logits, rtol=1e-3, atol=1e-3):
                self.failures.append(f"a wrong answer: {actual}")
            self.answered += 1
            await asyncio.sleep(0.005)  # it is a witness, not a load


@dataclass
class World:
    """The stack, and how to call it."""

    front: RunningGateway
    backend: Replica
    beside: TritonServer
    channel: grpc.aio.Channel
    witness: Witness
    started: frozenset[int] = frozenset()
    """The servers that must live through everything."""

    def __post_init__(self) -> None:
        self.started = self.servers()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.front.authority.bearer("demo").items())

    async def call(
        self, body: bytes, *headers: tuple[str, str], method: str = "ModelInfer", signed_in: bool = True, **given: Any
    ) -> Refusal:
        """One call of bytes; how it ended, with code OK when it was answered."""
        metadata = (*(self.metadata if signed_in else ()), *headers)
        options = {"timeout": 30, **given}
        try:
            await self.channel.unary_unary(f"{SERVICE}{method}")(body, metadata=metadata, **options)
        except grpc.aio.AioRpcError as error:
            return Refusal(error.code().name, str(error.details()), reason(error))
        return Refusal("OK", "")

    def processes(self) -> list[psutil.Process]:
        """Envoy, and both Tritons with their stubs."""
        assert self.backend.replica.pid is not None
        guards = [psutil.Process(pid) for pid in (self.backend.replica.pid, self.beside.pid)]
        return [
            psutil.Process(self.front.process.pid),
            *(p for guard in guards for p in guard.children(recursive=True)),
        ]

    def servers(self) -> frozenset[int]:
        """Envoy, and the Tritons without their stubs."""
        return frozenset(each.pid for each in self.processes() if each.name() in {"envoy", "tritonserver"})

    def resident_bytes(self) -> int:
        """Memory of all of them."""
        return sum(process.memory_info().rss for process in self.processes())

    def trusted(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.front.gateway.certificate.read_bytes())


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Everything up and the good model answering."""
    models = [served_model(GOOD), elastic_model()]
    examples = [each for each in example_models() if each.name in _EXAMPLES]
    async with AsyncExitStack() as exits:
        front = await exits.enter_async_context(gateway(folder / "envoy"))
        backend = await exits.enter_async_context(replica(folder / "replica", models))
        beside = await exits.enter_async_context(served(folder / "beside", examples))
        await backend.ready(deadline_s=60)
        found = (*routes(models, backend.endpoint), *routes(examples, Endpoint.parse(beside.endpoint)))
        await front.route(Routes(routes=found))
        credentials = grpc.ssl_channel_credentials(front.gateway.certificate.read_bytes())
        options = [
            *(("grpc.max_send_message_length", 128 << 20), ("grpc.max_receive_message_length", 128 << 20)),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        channels = [grpc.aio.secure_channel(f"localhost:{front.port}", credentials, options=options) for _ in range(2)]
        for channel in channels:
            exits.push_async_callback(channel.close)
        running = World(front=front, backend=backend, beside=beside, channel=channels[0], witness=Witness())
        watching = asyncio.create_task(running.witness.watch(channels[1], running.metadata))
        try:
            yield running
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def message(model: str, name: str, values: Any, kind: str) -> Any:
    """A request with one raw tensor."""
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[values.tobytes()])
    request.inputs.add(name=name, datatype=kind, shape=values.shape)
    return request


def good_request(model: str = GOOD) -> Any:
    """One that is answered, to be spoiled."""
    return message(model, "x", samples(1)[0], "FP32")


def elastic_model() -> ServedModel:
    """A product of matrices whose rows may be of any length: the runtime and not Triton finds the wrong ones."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logits"])],
        "elastic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    onnx = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    signature = Signature(
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, -1)),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 10)),),
    )
    x = np.ones((1, 64), np.float32)
    golden = Golden(inputs={"x": x}, outputs={"logits": x @ WEIGHTS}, max_batch=1)
    return ServedModel(name=ELASTIC, files=dict(render(ELASTIC, onnx, signature)), golden=golden)
