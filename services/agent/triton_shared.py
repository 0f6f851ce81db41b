"""A shared server's charge: the models that the inference service tells it to serve, loaded and unloaded as it says."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from chassis.logs import logger
from lepton.errors import LeptonError
from lepton.internal.v1 import model_server_pb2 as pb
from lepton.scheduler.v1 import program_pb2
from services.agent.charge import load_and_prove
from services.agent.race import race
from services.agent.replica_settings import ReplicaSettings
from services.agent.served_model import ServedModel, write_model
from services.agent.triton_server import ServerFailed, TritonServer

log = logger(__name__)
_REPORT_S: Final = 1.0
_WINDOW_S: Final = 60.0
_RETRY_S: Final = 0.5
_UNLOAD_S: Final = 60.0
_LETTING_GO_S: Final = 1.0
"""A model is unloaded so long after it was said: the gateway no longer sends it calls by then."""

Fetch = Callable[[program_pb2.ServedModel, Path], ServedModel]
"""Brings a model's files; blocks. Raises LeptonError, OSError."""


Connect = Callable[[AsyncIterator[pb.ServeModelsRequest]], Any]
"""Opens a session (a generated stub's `ServeModels`): an async iterator of responses that can be cancelled."""


@dataclass(slots=True)
class _Held:
    """One model of the server."""

    wish: program_pb2.ServedModel
    state: pb.ModelReport.State.ValueType = pb.ModelReport.LOADING
    model: ServedModel | None = None
    memory_bytes: int = 0
    problem: str = ""
    last_use_s: float = 0.0
    is_hung: bool = False
    before: int = 0
    """What the server had counted when it was loaded: its warm-up."""
    calls: int = 0
    """Of others than ourselves, since it was loaded."""
    recent: deque[tuple[float, int]] = field(default_factory=deque)
    """When how many had come, over the last minute."""


class SharedModels:
    """Loads what is desired, unloads what is not, and says what has become of it, over one session at a time."""

    def __init__(
        self,
        *,
        connect: Connect,
        hello: Callable[[str], pb.ModelServerHello],
        fetch: Fetch,
        directory: Path,
        settings: ReplicaSettings,
        is_mutual_tls: bool = False,
    ) -> None:
        self._is_mutual_tls = is_mutual_tls
        self._connect, self._hello, self._fetch = connect, hello, fetch
        self._repository, self._files, self._settings = directory / "repository", directory / "files", settings
        self._held: dict[str, _Held] = {}
        self._desired: Mapping[str, program_pb2.ServedModel] | None = None
        self._told, self._work = asyncio.Event(), asyncio.Event()
        self._folders = 0

    @property
    def models(self) -> Sequence[ServedModel]:
        """The models that are loaded."""
        return [held.model for held in self._held.values() if held.state == pb.ModelReport.LOADED and held.model]

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        """What each was measured to take, by its name."""
        return {held.model.name: held.memory_bytes for held in self._held.values() if held.model}

    async def begin(self, server: TritonServer) -> None:
        """Loads what its predecessor had, so that a server which is replaced loses nothing."""
        for id_, held in list(self._held.items()):
            if held.model is None or held.state != pb.ModelReport.LOADED:
                del self._held[id_]
                continue
            held.calls, held.recent = 0, deque()
            await self._load(server, held)

    async def attend(self, server: TritonServer) -> None:
        """One session after the other; the server serves on while there is none. Returns after a load that hangs."""
        self._desired = None
        await race(self._follow(server), self._measure(server), self._converse(server))

    async def _converse(self, server: TritonServer) -> NoReturn:
        while True:
            stream = self._connect(self._requests(server))
            try:
                async for response in stream:
                    self._desired = {each.id: each.model for each in response.models}
                    self._work.set()
            except (LeptonError, asyncio.InvalidStateError) as error:
                log.info("the session of a shared server broke", why=str(error), endpoint=server.endpoint)
            finally:
                stream.cancel()
            await asyncio.sleep(_RETRY_S)

    async def _requests(self, server: TritonServer) -> AsyncIterator[pb.ServeModelsRequest]:
        yield pb.ServeModelsRequest(hello=self._hello(server.endpoint))
        while True:
            self._told.clear()
            yield pb.ServeModelsRequest(report=self._report())
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._told.wait()

    def _report(self) -> pb.ModelServerReport:
        now_s = asyncio.get_running_loop().time()
        report = pb.ModelServerReport()
        for id_, held in self._held.items():
            first = held.recent[0][1] if held.recent else held.calls
            report.models.add(
                id=id_,
                state=held.state,
                memory_bytes=held.memory_bytes,
                idle_s=now_s - held.last_use_s if held.calls else -1.0,
                calls_per_minute=float(held.calls - first),
                problem=held.problem,
                engine=held.model.engine if held.model else "",
                is_mutual_tls=self._is_mutual_tls,
            )
        return report

    async def _follow(self, server: TritonServer) -> None:
        """Brings the server to what is desired, one model at a time: room is made before it is taken.

        Returns when a load does not end: Triton never lets go of such a model, so another process has to come.
        """
        while True:
            await self._work.wait()
            self._work.clear()
            desired = self._desired
            if desired is None:
                continue
            for id_ in [each for each in self._held if self._held[each].wish != desired.get(each)]:
                await self._unload(server, self._held.pop(id_))
            for id_, wish in desired.items():
                if id_ not in self._held and self._desired is desired:
                    held = self._held[id_] = _Held(wish=wish)
                    await self._bring(server, held)
                    self._told.set()
                    if held.is_hung:
                        return

    async def _bring(self, server: TritonServer, held: _Held) -> None:
        self._folders += 1
        folder = self._files / str(self._folders)
        try:
            held.model = await asyncio.to_thread(self._fetch, held.wish, folder)  # reads the store
            await asyncio.to_thread(write_model, self._repository, held.model)
        except (LeptonError, OSError, ValueError) as error:
            held.state, held.problem = pb.ModelReport.FAILED, str(error)
            return
        await self._load(server, held)

    async def _load(self, server: TritonServer, held: _Held) -> None:
        """A model that cannot be loaded, or answers wrong, is its own problem; the others are served on."""
        assert held.model is not None
        name = held.model.name
        try:
            held.memory_bytes = await load_and_prove(server, held.model, self._settings)
            held.before = (await server.calls(deadline_s=self._settings.check_s)).get(name, 0) - server.probes(name)
            held.state, held.problem = pb.ModelReport.LOADED, ""
        except ServerFailed as error:
            held.state, held.problem = pb.ModelReport.FAILED, str(error)
            log.warning("a shared model was not loaded", model=name, problem=str(error)[:500])
            try:
                await server.unload(name, deadline_s=self._settings.check_s)
            except ServerFailed as unloading:
                held.is_hung = True
                log.warning("a shared model could not be unloaded", model=name, problem=str(unloading)[:500])

    async def _unload(self, server: TritonServer, held: _Held) -> None:
        if held.model is None or held.state != pb.ModelReport.LOADED:
            return
        await asyncio.sleep(_LETTING_GO_S)
        await server.unload(held.model.name, deadline_s=_UNLOAD_S)
        log.info("shared model unloaded", model=held.model.name, endpoint=server.endpoint)

    async def _measure(self, server: TritonServer) -> NoReturn:
        """Counts the calls of others than ourselves."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_REPORT_S)
            with suppress(ServerFailed):  # whether it still answers is found out elsewhere
                counted = await server.calls(deadline_s=self._settings.check_s)
                for held in self._held.values():
                    if held.model is not None and held.model.name in counted:
                        self._count(held, counted[held.model.name] - server.probes(held.model.name), loop.time())

    def _count(self, held: _Held, calls: int, now_s: float) -> None:
        if calls - held.before > held.calls:
            held.calls, held.last_use_s = calls - held.before, now_s
        held.recent.append((now_s, held.calls))
        while held.recent[0][0] < now_s - _WINDOW_S:
            held.recent.popleft()
