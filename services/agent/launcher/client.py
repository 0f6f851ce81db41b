"""The agent's side of the launcher: starts its process, asks it for ranks and stores, hears how they end."""

import asyncio
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import services
from lepton.errors import FailedPrecondition, InvalidArgument, LeptonError, Unavailable
from services.agent.futures import fail, settle
from services.agent.launcher import protocol
from services.agent.launcher.handles import Exit, RankHandle, StoreHandle
from services.agent.launcher.launch import RankLaunch, launcher_environment, rank_environment

_LINE_LIMIT: Final = 1 << 20
_GRACE_S: Final = 5.0


class LauncherClient:
    """The agent's launcher; open it in the thread that lives as long as the agent (see death.die_with)."""

    def __init__(self, environ: Mapping[str, str], *, python: str = sys.executable) -> None:
        self._environ, self._python = environ, python
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._ready: asyncio.Future[float]
        self._started: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._exits: dict[str, asyncio.Future[Exit]] = {}
        self._lost: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._ready, self._lost = loop.create_future(), loop.create_future()
        ours, theirs = protocol.pair()
        with theirs:
            command = ("-m", "services.agent.launcher", "--fd", str(theirs.fileno()), "--parent", str(os.getpid()))
            self._process = await asyncio.create_subprocess_exec(
                self._python,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd=Path(str(services.__file__)).parents[1],
                env=launcher_environment(self._environ),
            )
        ours.setblocking(False)
        self._control = ours
        loop.add_reader(ours.fileno(), self._receive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_warm = self._ready.done()
        self._lose()  # closing the control socket makes the launcher kill its children and leave
        assert self._process is not None
        if not is_warm and self._process.returncode is None:
            self._process.kill()  # it has no children yet, and hears nothing until it has imported torch
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    @property
    def pid(self) -> int:
        """The launcher's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def lost(self) -> asyncio.Future[None]:
        """Done once the launcher has died, and with it every rank; the agent opens a new client then."""
        return self._lost

    async def ready(self) -> float:
        """Waits until the launcher is warm; the seconds that its imports took. Unavailable when it died instead."""
        return await asyncio.shield(self._ready)

    async def start(self, launch: RankLaunch) -> RankHandle:
        """Starts a rank; returns as soon as its process exists."""
        environment = rank_environment(self._environ, launch.env)
        rank_environment({}, launch.secrets)  # checked alike
        message: dict[str, Any] = {
            "op": "start",
            "id": launch.rank_id,
            "entry": launch.entry,
            "argv": list(launch.argv),
        }
        message |= {"env": environment, "cwd": str(launch.cwd), "confinement": launch.confinement.to_json()}
        async with AsyncExitStack() as undo:
            stdout, stdout_end = await _output(undo)
            stderr, stderr_end = await _output(undo)
            ours, theirs = socket.socketpair()
            with theirs:
                reports, answers = await asyncio.open_unix_connection(sock=ours, limit=_LINE_LIMIT)
                undo.callback(answers.close)
                files = [stdout_end, stderr_end, theirs.fileno()]
                try:
                    if launch.secrets:
                        message["has_secrets"] = True
                        files.append(_sealed(launch.secrets))
                    started, exited = await self._ask(launch.rank_id, message, files)
                finally:
                    for each in files:
                        if each != theirs.fileno():
                            os.close(each)
            undo.pop_all()
        return RankHandle(
            rank_id=launch.rank_id,
            pid=started["pid"],
            stdout=stdout,
            stderr=stderr,
            exited=exited,
            _reports=reports,
            _answers=answers,
            _kill=partial(self._kill, launch.rank_id),
        )

    async def store(self, host: str = "127.0.0.1", *, store_id: str = "store") -> StoreHandle:
        """Starts a gang's rendezvous store on a free port of `host`."""
        started, exited = await self._ask(store_id, {"op": "store", "id": store_id, "host": host})
        return StoreHandle(
            store_id=store_id,
            pid=started["pid"],
            endpoint=started["endpoint"],
            exited=exited,
            _kill=partial(self._kill, store_id),
        )

    async def _ask(
        self, child_id: str, message: Mapping[str, Any], files: Sequence[int] = ()
    ) -> tuple[Mapping[str, Any], asyncio.Future[Exit]]:
        await self.ready()
        if child_id in self._exits:
            raise FailedPrecondition("RANK_ALREADY_RUNNING", rank=child_id)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Mapping[str, Any]] = loop.create_future()
        exited: asyncio.Future[Exit] = loop.create_future()
        self._started[child_id], self._exits[child_id] = answer, exited
        try:
            await self._send(message, files)
            return await answer, exited
        except LeptonError:
            self._exits.pop(child_id, None)
            raise
        finally:
            self._started.pop(child_id, None)

    async def _send(self, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        while True:
            if self._control is None:
                raise Unavailable("LAUNCHER_LOST")
            try:
                return protocol.send(self._control, message, files)
            except BlockingIOError:
                await _writable(self._control)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    raise InvalidArgument("LAUNCH_TOO_LARGE", rank=str(message["id"])) from error
                self._lose()
                raise Unavailable("LAUNCHER_LOST") from error

    def _kill(self, child_id: str, number: int) -> None:
        if self._control is not None and child_id in self._exits:
            protocol.send(self._control, {"op": "kill", "id": child_id, "signal": int(number)})

    def _receive(self) -> None:
        assert self._control is not None
        try:
            message, _ = protocol.receive(self._control)
        except BlockingIOError:
            return
        except OSError:
            message = None
        if message is None:
            self._lose()
        elif "ready" in message:
            self._ready.set_result(float(message["seconds"]))
        elif "exit" in message:
            settle(self._exits.pop(message["exit"]), _exit_of(message))
        elif "failed" in message:
            fail(self._started.get(message["failed"]), Unavailable("RANK_NOT_STARTED", why=str(message["why"])))
        elif message["started"] in self._started:
            settle(self._started[message["started"]], message)

    def _lose(self) -> None:
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        fail(self._ready, Unavailable("LAUNCHER_LOST"))
        for answer in self._started.values():
            fail(answer, Unavailable("LAUNCHER_LOST"))
        for ended in self._exits.values():
            settle(ended, Exit(signal=signal.SIGKILL))  # the kernel kills them with the launcher
        settle(self._lost, None)


async def _output(undo: AsyncExitStack) -> tuple[asyncio.StreamReader, int]:
    reading, writing = os.pipe()
    reader = asyncio.StreamReader(limit=_LINE_LIMIT)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    undo.callback(transport.close)
    return reader, writing


def _sealed(secrets: Mapping[str, str]) -> int:
    """A file in memory, without a name, that the rank alone reads: after it was forked."""
    file = os.memfd_create("variables", os.MFD_CLOEXEC)
    try:
        os.write(file, json.dumps(dict(secrets)).encode())
        os.lseek(file, 0, os.SEEK_SET)
    except OSError:
        os.close(file)
        raise
    return file


async def _writable(end: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(end.fileno(), settle, ready, None)
    try:
        await ready
    finally:
        loop.remove_writer(end.fileno())


def _exit_of(message: Mapping[str, Any]) -> Exit:
    return Exit(code=message["code"], signal=message["signal"], peak_bytes=message["peak"])
