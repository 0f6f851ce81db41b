"""Owns one tritonserver process from its start to its last descendant: ports, environment, model loading, end."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from chassis.replica_channels import ReplicaChannel
from lepton.golden import Golden, Verdict, check
from services.agent import guard
from services.agent.ports import free_port
from services.agent.triton_memory import group_memory, members
from services.agent.triton_tls import ServerTls
from services.agent.triton_tools import TritonTools

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (where Triton's stubs put it)
_PREFIX: Final = "lepton-triton"
_LOG_KEPT_BYTES: Final = 4 << 20
_COLLECTIONS: Final = 500
_CHANNEL: Final = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
]


class ServerFailed(Exception):
    """The server did not start, did not load a model, or ended; the message says which, with the end of its log."""


class TritonServer:
    """`async with` starts the process and waits until it is live; leaving the block kills whatever is left of it."""

    def __init__(
        self,
        *,
        tools: TritonTools,
        repository: Path,
        log: Path,
        port: int,
        start_s: float,
        trace_url: str = "",
        trace_roots: Path | None = None,
        options: Sequence[str] = (),
        devices: Sequence[str] = (),
        tls: ServerTls | None = None,
    ) -> None:
        self._tools = tools
        self._tls = tls
        self._repository = repository
        self._log = log
        self._port = port
        self._start_s = start_s
        self._trace_url, self._trace_roots = trace_url, trace_roots
        self._options, self._devices = options, devices
        self._probes: Counter[str] = Counter()
        self._shared_memory = f"{_PREFIX}-{os.getpid()}-{port}-"
        self.metrics_port = free_port()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The guard, leader of the process group of the server and its stubs."""
        return self._process.pid

    async def __aenter__(self) -> Self:
        sweep_shared_memory()
        command = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), *self._command()]
        with _open_log(self._log) as output:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                start_new_session=True,
            )
        name, member = (self._tls.name, self._tls.member) if self._tls is not None else ("", None)
        self._channel = ReplicaChannel(self.endpoint, name, member, _CHANNEL)
        try:
            stub = await self._stub()
            live = stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=self._start_s, wait_for_ready=True)
            await self._unless_ended(live, "start")
        except BaseException:
            await self._clear()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._clear()

    async def load(self, model: str, *, deadline_s: float) -> None:
        """Loads a model of the repository. The deadline is ours: when a stub cannot start, Triton never answers."""
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        stub = await self._stub()
        await self._unless_ended(stub.RepositoryModelLoad(request, timeout=deadline_s), f"load {model}")

    async def unload(self, model: str, *, deadline_s: float) -> None:
        """Unloads a model; calls in flight are answered first. It answers none from now on."""
        request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        stub = await self._stub()
        await self._unless_ended(stub.RepositoryModelUnload(request, timeout=deadline_s), f"unload {model}")

    async def calls(self, *, deadline_s: float) -> dict[str, int]:
        """How many calls of each loaded model have been answered, well or badly. Raises ServerFailed."""
        request = service_pb2.ModelStatisticsRequest()
        try:
            answer = await (await self._stub()).ModelStatistics(request, timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            raise ServerFailed(f"statistics: {error.code().name}: {error.details()}") from error
        counted: dict[str, int] = {}
        for each in answer.model_stats:
            calls = each.inference_stats.success.count + each.inference_stats.fail.count
            counted[each.name] = counted.get(each.name, 0) + calls
        return counted

    def memory(self) -> int:
        """Bytes that the server and its stubs take; reads /proc."""
        return group_memory(self._process.pid)

    async def prove(self, model: str, golden: Golden, *, deadline_s: float) -> Verdict:
        """Golden inference: the only readiness that means something, for Triton calls a dead stub ready."""
        self._probes[model] += sum(1 for _ in golden.requests())
        return await check(await self._channel.now(), model, golden, deadline_s=deadline_s)

    def probes(self, model: str) -> int:
        """How many calls of a model were our own."""
        return self._probes[model]

    async def ended(self) -> int:
        """Waits for the server and returns its exit code, 128 + the signal when a signal ended it."""
        return await self._process.wait()

    async def stop(self, grace_s: float) -> None:
        """Lets the calls in flight finish, for as long as `grace_s`."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            await self._clear()

    def last_words(self, limit: int = 2000) -> str:
        """The end of the log."""
        with self._log.open("rb") as file:
            file.seek(max(self._log.stat().st_size - limit, 0))
            return file.read().decode(errors="replace").strip()

    async def _stub(self) -> Any:
        return service_pb2_grpc.GRPCInferenceServiceStub(await self._channel.now())

    async def _unless_ended(self, call: Awaitable[Any], what: str) -> None:
        """The call's end or the process's, whichever is first."""
        answer = asyncio.ensure_future(call)
        end = asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ServerFailed(f"{what}: tritonserver ended with {end.result()}: {self.last_words()}")
            answer.result()
        except grpc.aio.AioRpcError as error:
            raise ServerFailed(f"{what}: {error.code().name}: {error.details()}: {self.last_words()}") from error
        finally:
            answer.cancel()
            end.cancel()
            await asyncio.gather(answer, end, return_exceptions=True)

    async def _clear(self) -> None:
        """Kills guard, server and stubs: one process group, which outlives its leader."""
        await asyncio.shield(self._kill())

    async def _kill(self) -> None:
        group = self._process.pid
        while living := list(members(group)):
            for process in living:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            await asyncio.sleep(0.01)
        await self._process.wait()
        for _ in range(_COLLECTIONS):  # a process with threads is dead a moment before it can be waited for
            if _collect(group):
                break
            await asyncio.sleep(0.01)
        await self._channel.close()
        for region in _SHARED_MEMORY.glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)

    def _environment(self) -> dict[str, str]:
        environment = self._tools.environment(self._devices)
        if self._trace_roots is not None:
            environment["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"] = str(self._trace_roots)
        return environment

    def _command(self) -> list[str]:
        tracing: Sequence[str] = ()
        if self._trace_url:
            # Calls that bring a sampled `traceparent` are traced, as children of it, and of the others none: one in two
            # thousand million. Rate 0 would switch tracing off.
            rate = "rate=2000000000"
            options = (f"url={self._trace_url}", "resource=service.name=triton", "bsp_schedule_delay=500")  # ms
            settings = ("mode=opentelemetry", "level=TIMESTAMPS", rate, *(f"opentelemetry,{one}" for one in options))
            tracing = [f"--trace-config={one}" for one in settings]
        return [
            str(self._tools.server),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._tools.backends}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            "--strict-readiness=false",
            "--allow-http=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._port}",
            "--reuse-grpc-port=1",
            "--grpc-http2-min-recv-ping-interval-without-data=1000",
            "--grpc-keepalive-permit-without-calls=1",
            "--allow-metrics=true",
            "--allow-gpu-metrics=false",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self.metrics_port}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            *(self._tls.options(self._log.parent / "tls") if self._tls is not None else ()),
            *tracing,
            *self._options,
        ]


def _collect(group: int) -> bool:
    """Waits for the dead of a process group that this process has inherited; whether none is left."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def sweep_shared_memory() -> None:
    """Removes what servers of agents that no longer live have left in shared memory."""
    for region in _SHARED_MEMORY.glob(f"{_PREFIX}-*"):
        owner = region.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            region.unlink(missing_ok=True)


def _open_log(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_long = path.exists() and path.stat().st_size > _LOG_KEPT_BYTES
    return path.open("wb" if is_long else "ab")
