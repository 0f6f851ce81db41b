"""A server: some of the weights and their optimizer, behind a socket."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from torch import Tensor

from lepton.errors import InvalidArgument, LeptonError, Unavailable
from lepton.train.parallel.optimizing import Optimizing
from lepton.train.parallel.parameter_server import frames
from lepton.train.parallel.parameter_server.clock import Clock

LINGER_S: Final = 300.0
_GREETING_S: Final = 10.0
_KEEP_ALIVE: Final = {socket.TCP_KEEPIDLE: 2, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 4}


def keep_alive(connection: socket.socket) -> None:
    """Lets the kernel notice within seconds when the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in _KEEP_ALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Server:
    """Serves its weights until every worker has finished. One connection is one worker's; its end is the worker's."""

    def __init__(
        self, optimizing: Optimizing, listener: socket.socket, secret: str, *, workers: int, clock: Clock
    ) -> None:
        self._optimizing, self._listener, self._secret = optimizing, listener, secret
        self._workers, self._clock = workers, clock
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._finished: set[int] = set()
        self._most = sum(parameter.nbytes for parameter in optimizing.parameters) + (1 << 20)

    async def run(self, linger_s: float = LINGER_S) -> None:
        """Serves. Raises Unavailable when no worker has been there for `linger_s`, before all had finished."""
        self._changed = asyncio.Condition()
        self._applying = asyncio.Lock()
        server = await asyncio.start_server(self._attend, sock=self._listener)
        try:
            while len(self._finished) < self._workers:
                await self._wait_for_change(None if self._writers else linger_s)
        finally:
            server.close()
            for writer in list(self._writers.values()):
                writer.close()

    async def _wait_for_change(self, timeout_s: float | None) -> None:
        async with self._changed:
            if len(self._finished) >= self._workers:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), timeout_s)
            except TimeoutError as error:
                gone = sorted(set(range(self._workers)) - self._finished)
                raise Unavailable("WORKERS_GONE", workers=", ".join(map(str, gone))) from error

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        worker: int | None = None
        with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):  # the worker is gone
            try:
                keep_alive(writer.get_extra_info("socket"))
                worker = await asyncio.wait_for(self._greet(reader, writer), _GREETING_S)
                while await self._answer(worker, reader, writer):
                    pass
            except LeptonError as error:
                await _send(writer, {"error": error.reason, "message": str(error)})
        writer.close()
        if worker is not None and self._writers.get(worker) is writer:
            async with self._changed:
                del self._writers[worker]
                self._clock.leave(worker)
                self._changed.notify_all()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        mine = frames.nonce()
        await _send(writer, {"nonce": mine})
        hello, _ = await _receive(reader, most=0)
        worker = hello.get("worker")
        if not frames.is_proof(hello.get("proof"), self._secret, "worker", mine, worker) or not isinstance(worker, int):
            raise InvalidArgument("FRAME_INVALID", problem="it does not prove to come from a rank of the gang")
        async with self._changed:
            if old := self._writers.pop(worker, None):
                self._clock.leave(worker)
                old.transport.abort()  # the worker's former life, not noticed to be over
            self._writers[worker] = writer
            step = self._clock.join(worker)
            self._finished.discard(worker)
            self._changed.notify_all()
        await _send(writer, {"step": step, "proof": frames.proof(self._secret, "server", hello.get("nonce"))})
        return worker

    async def _answer(self, worker: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request, tensors = await _receive(reader, most=self._most)
        kind = request.get("kind")
        if kind == "push":
            await self._push(worker, writer, tensors, learning_rate=float(request["learning_rate"]))
            await _send(writer, {})
        elif kind == "pull":
            await self._until_may_begin(worker, writer, request.get("max_staleness"))
            await _send(writer, {"furthest": self._clock.furthest}, await self._copied(self._weights()))
        elif kind == "snapshot":
            await _send(writer, {}, await self._copied(self._everything()))
        elif kind == "finish":
            async with self._changed:
                self._finished.add(worker)
                self._changed.notify_all()
            await _send(writer, {})
            return False
        else:
            raise InvalidArgument("FRAME_INVALID", problem=f"its kind is {kind!r}")
        return True

    async def _until_may_begin(self, worker: int, writer: asyncio.StreamWriter, max_staleness: int | None) -> None:
        async with self._changed:
            while not (self._writers.get(worker) is writer and self._clock.may_begin(worker, max_staleness)):
                if self._writers.get(worker) is not writer:
                    raise ConnectionAbortedError
                await self._changed.wait()
            self._clock.begin(worker)

    async def _push(
        self, worker: int, writer: asyncio.StreamWriter, tensors: Mapping[str, Tensor], *, learning_rate: float
    ) -> None:
        unlike = [
            name for name, parameter in self._optimizing.named.items()
            if name in tensors and tensors[name].shape != parameter.shape
        ]  # fmt: skip
        if unlike or set(tensors) - set(self._optimizing.named):
            raise InvalidArgument("FRAME_INVALID", problem="its gradients are not those of this server's weights")
        async with self._applying:
            if tensors:
                await asyncio.to_thread(self._apply, tensors, learning_rate)  # else nobody is heard meanwhile
        async with self._changed:
            if self._writers.get(worker) is writer:
                self._clock.tick(worker)
            self._changed.notify_all()

    def _apply(self, gradients: Mapping[str, Tensor], learning_rate: float) -> None:
        for name, parameter in self._optimizing.named.items():
            parameter.grad = gradients[name].to(parameter.dtype) if name in gradients else None
        self._optimizing.step(learning_rate=learning_rate)

    async def _copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        async with self._applying:  # never half of a step
            return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _weights(self) -> dict[str, Tensor]:
        return dict(self._optimizing.named)

    def _everything(self) -> dict[str, Tensor]:
        found = {f"model/{name}": parameter for name, parameter in self._weights().items()}
        for name, kept in self._optimizing.state()["state"].items():
            found |= {f"{key}/{name}": value for key, value in kept.items() if isinstance(value, Tensor)}
        return found


async def _send(
    writer: asyncio.StreamWriter, header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> None:
    for part in frames.encode(header, tensors):
        writer.write(part)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader, *, most: int) -> tuple[frames.Header, dict[str, Tensor]]:
    header, content = frames.lengths(await reader.readexactly(frames.LENGTHS.size), most=most or 1024)
    return frames.decode(await reader.readexactly(header), await reader.readexactly(content))
