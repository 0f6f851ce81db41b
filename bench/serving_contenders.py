"""The servers that `bench.serving` compares: Lepton's data plane, and each peer at its best documented setting."""

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import psutil
from tritonclient.grpc import service_pb2

from bench.peers import environments, serving_model
from bench.serving_load import Call
from lepton.golden import Golden
from lepton.models import Signature, Tensor
from services.agent.served_model import ServedModel
from services.inference.envoy import Route, Routes, Target
from services.inference.triton_repository import ServingOptions
from services.inference.triton_repository import render as render_repository
from tests.harness.ports import free_ports
from tests.harness.serving import gateway, replica
from tests.harness.wait import until

_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_MODEL: Final = "bench.digits"
_MARK: Final = "LEPTON_BENCH_MARK"
_PEERS: Final = Path(__file__).resolve().parent / "peers"
_START_S: Final = 180.0


class Unavailable(Exception):
    """A contender cannot run on this machine; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A contender that answers."""

    call: Call
    ask: Callable[[], bytes]
    """Sends the call once and returns the answer's body."""
    read: Callable[[bytes], Any]
    """The logits in a body."""
    processes: Callable[[], list[psutil.Process]]

    def cpu_s(self) -> float:
        """Processor time of all its processes so far."""
        total = 0.0
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to run one contender."""

    name: str
    batch: int = 1
    """Requests that may be joined; 1 = each on its own."""
    instances: int = 1
    delay_us: int = 0

    @property
    def title(self) -> str:
        return self.name if self.batch == 1 else f"{self.name} (batching)"


PEERS: Final = ("ray", "mlserver", "kserve", "litserve", "bentoml")
_ON_GRPC: Final = frozenset({"mlserver", "kserve"})


@asynccontextmanager
async def running(setting: Setting, cores: Sequence[int]) -> AsyncIterator[Running]:
    """The contender on these cores, until the block ends. Raises Unavailable."""
    with tempfile.TemporaryDirectory(prefix="lepton-bench-") as folder:
        context = _lepton if setting.name == "lepton" else _peer
        async with context(setting, Path(folder), cores) as up:
            yield up


@asynccontextmanager
async def _lepton(setting: Setting, folder: Path, cores: Sequence[int]) -> AsyncIterator[Running]:
    """Envoy with TLS, token check, policy and access log, and one replica of Triton, as an agent runs it."""
    options = ServingOptions(max_batch=setting.batch, max_queue_delay_us=setting.delay_us, instances=setting.instances)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # what is started from here on inherits it
    try:
        async with AsyncExitStack() as stack:
            front = await stack.enter_async_context(gateway(folder / "envoy"))
            model = _served(options)
            backend = await stack.enter_async_context(replica(folder / "replica", [model]))
            await backend.ready(deadline_s=60)
            os.sched_setaffinity(0, before)
            target = Target(revision=1, endpoints=(backend.endpoint,))
            await front.route(Routes(routes=(Route(model=_MODEL, targets=(target,)),)))
            token = front.authority.token("bench", lifetime_s=3600)
            bearer = ("authorization", f"Bearer {token}")
            certificate = front.gateway.certificate.read_bytes()
            channel = stack.enter_context(
                grpc.secure_channel(f"localhost:{front.port}", grpc.ssl_channel_credentials(certificate))
            )
            body = _frame(_MODEL)
            roots = [psutil.Process(front.process.pid), psutil.Process(backend.replica.pid)]
            yield Running(
                call=Call(url=f"https://localhost:{front.port}{_INFER}", body=body, headers=(*_GRPC, bearer)),
                ask=lambda: _asked(channel, body, (bearer,)),
                read=_logits,
                processes=lambda: [each for root in roots for each in (root, *root.children(recursive=True))],
            )
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def _peer(setting: Setting, folder: Path, cores: Sequence[int]) -> AsyncIterator[Running]:
    """A peer's own server program, in its own Python."""
    python = await asyncio.to_thread(_python, setting.name)
    (model := folder / "model.onnx").write_bytes(serving_model.network())
    (port,) = free_ports(1)
    mark = uuid.uuid4().hex
    given = [
        "taskset",
        "--cpu-list",
        ",".join(map(str, cores)),
        str(python),
        str(_PEERS / f"serving_{setting.name}.py"),
    ]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(*given, str(model), str(port), str(setting.batch)),
            cwd=folder,
            env={**os.environ, **_surroundings(setting.name), _MARK: mark},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        up = _reached(setting.name, port, lambda: _marked(mark))
        try:
            await until(lambda: _answers(process, up), _START_S)
        except (AssertionError, ProcessLookupError) as error:
            said = (folder / "log").read_text(errors="replace").replace("\0", "").strip()[-600:]
            raise Unavailable(f"{setting.name} did not come up: {error}: {said}") from error
        yield up
    finally:
        await _ended(mark)
        await process.wait()


def _reached(name: str, port: int, processes: Callable[[], list[psutil.Process]]) -> Running:
    if name in _ON_GRPC:
        body = _frame("digits")

        def ask() -> bytes:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                return _asked(channel, body, ())

        call = Call(url=f"http://127.0.0.1:{port}{_INFER}", body=body, headers=_GRPC)
        return Running(call=call, ask=ask, read=_logits, processes=processes)
    path, kind, body, read = _HTTP[name]
    call = Call(url=f"http://127.0.0.1:{port}{path}", body=body, headers=(("content-type", kind),), is_http1=True)
    return Running(call=call, ask=lambda: _posted(call), read=read, processes=processes)


def _python(name: str) -> Path:
    if name == "ray" and not shutil.which("haproxy", path=_PATH):
        raise Unavailable("haproxy is not installed (Debian: apt install haproxy)")
    try:
        return environments.ensured(name)
    except environments.PeerMissing as error:
        raise Unavailable(str(error)) from error


def _surroundings(name: str) -> Mapping[str, str]:
    one_thread = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if name != "ray":
        return one_thread
    return {
        **one_thread,
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": shutil.which("haproxy", path=_PATH) or "",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


async def _answers(process: asyncio.subprocess.Process, up: Running) -> bool:
    if process.returncode is not None:
        raise ProcessLookupError(f"it ended with {process.returncode}")
    try:
        await asyncio.to_thread(up.ask)
    except (OSError, grpc.RpcError, urllib.error.URLError):
        return False
    return True


async def _ended(mark: str) -> None:
    """Asks its processes to end, and kills what does not."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for process in _marked(mark):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(sent)
        with suppress(AssertionError):
            await until(lambda: not _marked(mark), 10)
            return


def _marked(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark in their environment, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == mark:
                found.append(process)
    return found


def _served(options: ServingOptions) -> ServedModel:
    signature = Signature(
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, *serving_model.SHAPE)),),
        outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, serving_model.CLASSES)),),
    )
    x, logits = serving_model.image(), serving_model.logits()
    files = render_repository(_MODEL, serving_model.network(), signature, options)
    golden = Golden(inputs={"x": x}, outputs={"logits": logits}, max_batch=1)
    return ServedModel(name=_MODEL, files=dict(files), golden=golden)


_GRPC: Final = (("content-type", "application/grpc"), ("te", "trailers"))


def _frame(model: str) -> bytes:
    """The request as a gRPC message with its prefix."""
    x = serving_model.image()
    message = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    content: bytes = message.SerializeToString()
    return b"\0" + len(content).to_bytes(4) + content


def _asked(channel: grpc.Channel, frame: bytes, metadata: Sequence[tuple[str, str]]) -> bytes:
    call: Callable[..., bytes] = channel.unary_unary(_INFER)
    answer = call(frame[5:], timeout=10, metadata=tuple(metadata))
    return b"\0" + len(answer).to_bytes(4) + answer


def _logits(body: bytes) -> Any:
    return np.frombuffer(service_pb2.ModelInferResponse.FromString(body[5:]).raw_output_contents[0], np.float32)


def _posted(call: Call) -> bytes:
    request = urllib.request.Request(call.url, data=call.body, headers=dict(call.headers))
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def _encoded() -> str:
    return base64.b64encode(serving_model.image().tobytes()).decode()


_HTTP: Final[Mapping[str, tuple[str, str, bytes, Callable[[bytes], Any]]]] = {
    "ray": (
        "/",
        "application/octet-stream",
        serving_model.image().tobytes(),
        lambda body: np.frombuffer(body, np.float32),
    ),
    "litserve": (
        "/predict",
        "application/json",
        json.dumps({"x": _encoded()}).encode(),
        lambda body: np.frombuffer(base64.b64decode(json.loads(body)["logits"]), np.float32),
    ),
    "bentoml": (
        "/predict",
        "application/json",
        json.dumps({"x": serving_model.image().tolist()}).encode(),
        lambda body: np.array(json.loads(body)[0], np.float32),
    ),
}
"""Path, kind of content, body, and how to read the answer: the cheapest form that each takes."""


def warn(text: str) -> None:
    """A line of progress, beside the figures."""
    print(text, file=sys.stderr, flush=True)
