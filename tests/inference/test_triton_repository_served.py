"""What real Triton makes of our repositories: warm-up, cache, queue, limits, versions, ensembles, and hostile calls."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lepton.golden import Golden
from lepton.models import Signature, Tensor
from lepton.repository import CONFIG
from services.agent.ports import Port
from services.agent.served_model import ServedModel, materialise
from services.agent.triton_memory import members
from services.agent.triton_server import TritonServer
from services.agent.triton_tools import TritonTools, server_options
from services.inference.triton_repository import ensemble, onnxruntime, onnxruntime_python
from services.inference.triton_repository.options import QueuePolicy, RateLimiter, ServingOptions
from services.inference.triton_repository.rendering import Rendered
from services.inference.triton_repository.warmup import Warmup
from tests.harness.serving import SIGNATURE, WEIGHTS, linear_model, samples, triton_tools
from tests.harness.wait import until

pytestmark = pytest.mark.integration
NAME = "demo.digits"


def served(name: str, rendered: Rendered, golden: Mapping[str, Any] | None = None) -> ServedModel:
    files = {path: content for path, content in rendered.files.items() if isinstance(content, bytes)}
    assert len(files) == len(rendered.files)
    x, logits = samples(16)
    tensors = save(dict(golden or {"x": x, "logits": logits}))
    return ServedModel(name=name, files=files, golden=Golden.parse(tensors, files[CONFIG].decode()))


def digits(options: ServingOptions | None = None, name: str = NAME, versions: Mapping[int, bytes] | None = None) -> Any:
    x, _ = samples(1)
    rendered = onnxruntime_python.render(
        name,
        versions or {1: linear_model()},
        SIGNATURE,
        options or ServingOptions(),
        Warmup.of(save({"x": x}), SIGNATURE),
    )
    return served(name, rendered)


class Client:
    """Asks a server and keeps what it answers."""

    def __init__(self, server: TritonServer, channel: grpc.aio.Channel) -> None:
        self.server, self.channel = server, channel
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def infer(self, x: Any, model: str = NAME, *, version: str = "", **changed: Any) -> Any:
        request = service_pb2.ModelInferRequest(
            model_name=model, model_version=version, raw_input_contents=[changed.pop("raw", x.tobytes())]
        )
        described = {"name": "x", "datatype": "FP32", "shape": x.shape, **changed}
        request.inputs.add(**described)
        answer = await self.stub.ModelInfer(request, timeout=10)
        return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(answer.outputs[0].shape)

    async def refused(self, x: Any, model: str = NAME, **changed: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.infer(x, model, **changed)
        return caught.value

    async def statistics(self, model: str = NAME) -> Any:
        answer = await self.stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name=model), timeout=5)
        return answer.model_stats[0]

    async def answers(self, model: str = NAME) -> None:
        x, logits = samples(3, seed=11)
        np.testing.assert_allclose(await self.infer(x, model), logits, rtol=1e-3, atol=1e-3)


@asynccontextmanager
async def serving(folder: Path, *models: ServedModel, tools: TritonTools | None = None) -> AsyncIterator[Client]:
    tools = tools or triton_tools()
    materialise(folder / "repository", models)
    port = Port()
    server = TritonServer(
        tools=tools,
        repository=folder / "repository",
        log=folder / "triton.log",
        port=port.number,
        start_s=30,
        options=server_options(tools, models),
    )
    limit = [("grpc.max_send_message_length", -1)]
    try:
        async with server, grpc.aio.insecure_channel(server.endpoint, options=limit) as channel:
            for model in models:
                await server.load(model.name, deadline_s=30)
            yield Client(server, channel)
    finally:
        port.close()


async def test_a_loaded_model_has_run_every_batch_size_that_matters(tmp_path: Path) -> None:
    async with serving(tmp_path, digits(ServingOptions(max_batch=16, preferred_batches=(4,)))) as client:
        statistics = await client.statistics()
        assert [each.batch_size for each in statistics.batch_stats] == [1, 4, 16]
        await client.answers()


async def test_without_a_warm_up_the_first_caller_pays(tmp_path: Path) -> None:
    async with serving(tmp_path, digits(ServingOptions(warmup=False))) as client:
        assert not (await client.statistics()).batch_stats


async def test_an_equal_request_is_answered_from_memory_and_another_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path, digits(ServingOptions(response_cache=True))) as client:
        x, logits = samples(2, seed=5)
        for _ in range(3):
            np.testing.assert_allclose(await client.infer(x), logits, rtol=1e-3, atol=1e-3)
        await client.answers()
        statistics = (await client.statistics()).inference_stats
        assert (statistics.cache_hit.count, statistics.cache_miss.count) == (2, 2)


async def test_a_full_queue_refuses_and_a_late_request_is_dropped(tmp_path: Path) -> None:
    # Nothing runs before 32 rows have gathered or the delay is over, so what waits is known.
    queue = QueuePolicy(max_size=2, timeout_us=300_000)
    options = ServingOptions(max_batch=32, preferred_batches=(32,), max_queue_delay_us=5_000_000, queue=queue)
    async with serving(tmp_path, digits(options)) as client:
        x, _ = samples(1)
        outcomes = await asyncio.gather(*(client.infer(x) for _ in range(6)), return_exceptions=True)
        problems = sorted(str(each.details()) for each in outcomes if isinstance(each, grpc.aio.AioRpcError))
        assert all(
            each.code() is grpc.StatusCode.UNAVAILABLE for each in outcomes if isinstance(each, grpc.aio.AioRpcError)
        )
        assert sum("maximum queue size" in problem for problem in problems) == 4
        assert sum("timeout" in problem.lower() for problem in problems) == 2


async def test_without_a_policy_the_same_requests_are_all_answered(tmp_path: Path) -> None:
    options = ServingOptions(max_batch=32, preferred_batches=(32,), max_queue_delay_us=400_000)
    async with serving(tmp_path, digits(options)) as client:
        x, _ = samples(1)
        assert len(await asyncio.gather(*(client.infer(x) for _ in range(6)))) == 6


async def test_models_that_share_a_resource_take_turns_and_all_answer(tmp_path: Path) -> None:
    limited = ServingOptions(instances=2, rate_limiter=RateLimiter(resources={"R": 1}))
    async with serving(tmp_path, digits(limited, "demo.a"), digits(limited, "demo.b")) as client:
        await asyncio.gather(*(client.answers(f"demo.{name}") for name in "abababab"))
        log = (tmp_path / "triton.log").read_text()
        assert "rate_limit" in log
        assert "EXEC_COUNT" in log


async def test_versions_are_served_side_by_side_and_the_newest_answers_by_default(tmp_path: Path) -> None:
    async with serving(tmp_path, digits(versions={2: scaled(2.0), 7: linear_model()})) as client:
        x, logits = samples(2)
        for version, factor in (("", 1.0), ("7", 1.0), ("2", 2.0)):
            answer = await client.infer(x, version=version)
            np.testing.assert_allclose(answer, factor * logits, rtol=1e-3, atol=1e-3)
        assert (await client.refused(x, version="1")).code() is grpc.StatusCode.NOT_FOUND


async def test_an_ensemble_answers_as_its_models_one_after_the_other(tmp_path: Path) -> None:
    inner = Tensor(name="x", datatype="FP32", shape=(-1, 10))
    second = Signature(inputs=(inner,), outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 10)),))
    steps = [
        ensemble.Step(model=f"{NAME}.a", signature=SIGNATURE, inputs={"x": "x"}, outputs={"logits": "between"}),
        ensemble.Step(model=f"{NAME}.b", signature=second, inputs={"x": "between"}, outputs={"logits": "logits"}),
    ]
    x, logits = samples(16)
    options = ServingOptions()
    back = onnxruntime_python.render(f"{NAME}.b", {1: scaled(3.0, flat=True)}, second, options, Warmup())
    models = [
        digits(name=f"{NAME}.a"),
        served(f"{NAME}.b", back, {"x": logits, "logits": 3 * logits}),
        served(NAME, ensemble.render(NAME, steps, SIGNATURE, options), {"x": x, "logits": 3 * logits}),
    ]
    async with serving(tmp_path, *models) as client:
        np.testing.assert_allclose(await client.infer(x[:5]), 3 * logits[:5], rtol=1e-3, atol=1e-3)
        assert (await client.server.prove(NAME, models[-1].golden, deadline_s=10)).passed


async def test_the_form_for_a_full_triton_loads_where_there_is_an_onnxruntime_backend(tmp_path: Path) -> None:
    """The wheel has none; one written in Python stands in, so the configuration meets the real server's own checks."""
    found = triton_tools()
    backends = tmp_path / "backends"
    backends.mkdir()
    (backends / "python").symlink_to(found.backends / "python")
    (backends / "onnxruntime").mkdir()
    program = onnxruntime_python.render(NAME, {1: b""}, SIGNATURE, ServingOptions(), Warmup()).files["1/model.py"]
    assert isinstance(program, bytes)
    shim = program.replace(b'["threads"]', b'["intra_op_thread_count"]')
    assert shim != program
    (backends / "onnxruntime" / "model.py").write_bytes(shim)
    x, _ = samples(1)
    options = ServingOptions(instances=2, threads=2)
    rendered = onnxruntime.render(NAME, {1: linear_model()}, SIGNATURE, options, Warmup.of(save({"x": x}), SIGNATURE))
    async with serving(tmp_path, served(NAME, rendered), tools=replace(found, backends=backends)) as client:
        await client.answers()


X, _ = samples(2)
REFUSED: tuple[dict[str, Any], ...] = (
    {"shape": [2, 1, 8, 9]},
    {"shape": [2, 1, 8]},
    {"shape": [-2, 1, 8, 8]},
    {"shape": [33, 1, 8, 8], "raw": bytes(33 * 256)},
    {"shape": [2**31, 2**31, 2**31, 8]},
    {"datatype": "FP64"},
    {"datatype": "PICKLE"},
    {"raw": b""},
    {"raw": bytes(7)},
    {"raw": bytes(80 << 20)},
    {"name": "../x"},
    {"version": "../../1"},
)


async def test_malformed_calls_are_refused_and_the_model_answers_on(tmp_path: Path) -> None:
    async with serving(tmp_path, digits()) as client:
        for changed in REFUSED:
            error = await client.refused(X, **changed)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (changed, error.details())
            await client.answers()


BOGUS = 10_000
LIBC = {"/etc/localtime", "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf"}
"""What the C library reads by itself, for times and addresses."""
STRANGE = (
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "%2e%2e/x",
    "a\0b",
    "x" * 300,
    "\u202ex",
    "demo.digits/../secret",
    "",
)


async def test_ten_thousand_bogus_names_cost_nothing_and_open_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, digits()) as client, opened_files(tmp_path, client.server.pid) as opened:
        names = [*STRANGE, *(f"demo.bogus-{number}" for number in range(BOGUS))]
        await client.answers()
        before = client.server.memory()

        async def ask(queue: list[str]) -> set[grpc.StatusCode]:
            found = set()
            while queue:
                found.add((await client.refused(X, queue.pop())).code())
            return found

        codes = set().union(*await asyncio.gather(*(ask(names) for _ in range(8))))
        assert codes <= {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}
        await client.answers()
        assert client.server.memory() - before < 32 << 20
        assert not {path for path in opened() - LIBC if not path.startswith(("/proc/", "/sys/"))}
        # The tracer works: this is a file that the server is told to open.
        await client.server.unload(NAME, deadline_s=10)
        await client.server.load(NAME, deadline_s=20)
        await until(lambda: str(tmp_path / "repository" / NAME / CONFIG) in opened())


@asynccontextmanager
async def opened_files(folder: Path, group: int) -> AsyncIterator[Callable[[], set[str]]]:
    """What the processes of a group open while the block runs; skips the test where nothing may be traced."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    log = folder / "strace"
    targets = [f"--attach={process.pid}" for process in members(group)]
    tracer = await asyncio.create_subprocess_exec(
        strace,
        "-f",
        "-s",
        "512",
        "-e",
        "trace=open,openat,openat2",
        "-o",
        str(log),
        *targets,
        stderr=asyncio.subprocess.PIPE,
    )
    assert tracer.stderr is not None
    said = await asyncio.wait_for(tracer.stderr.readline(), 20)
    if b"attached" not in said:
        await tracer.wait()
        pytest.skip(f"strace may not attach: {said.decode()}")

    def opened() -> set[str]:
        return set(re.findall(r'open(?:at|at2)?\([^"]*"([^"]*)"', log.read_text()))

    try:
        yield opened
    finally:
        tracer.terminate()
        await tracer.communicate()


def scaled(factor: float, *, flat: bool = False) -> bytes:
    """The linear model with its answers (or, of 10 numbers, the numbers themselves) times a factor."""
    if flat:
        weights, inputs, dims = np.eye(10, dtype=np.float32) * factor, "x", [10]
    else:
        weights, inputs, dims = WEIGHTS * np.float32(factor), "flat", [1, 8, 8]
    nodes = [helper.make_node("MatMul", [inputs, "w"], ["logits"])]
    if not flat:
        nodes.insert(0, helper.make_node("Flatten", ["x"], ["flat"]))
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *dims])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
