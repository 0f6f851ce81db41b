"""Simulated agents: one session each, and heartbeats evenly spread."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import grpc.aio

from lepton.internal.v1 import node_session_pb2 as pb
from lepton.scheduler.v1 import node_pb2, resources_pb2

OPEN: Final = "/lepton.internal.v1.NodeSessionService/OpenSession"
STREAMS_PER_CHANNEL: Final = 200
OPEN_TOGETHER: Final = 64
CONNECTING_S: Final = 4.0


class Agents:
    """Some simulated agents of one process."""

    def __init__(self, first: int, count: int, interval_s: float) -> None:
        self.first, self.count, self.interval_s = first, count, interval_s
        self._pace_s = max(interval_s, CONNECTING_S)  # until all are connected, since connecting costs as well
        self.acked = self.broken = 0
        self.delays: list[float] = []
        self._calls: list[Any] = []
        self._sent: dict[int, float] = {}
        self._listening: list[asyncio.Task[None]] = []

    async def run(self, channels: list[grpc.aio.Channel]) -> None:
        """Connect all, beating from the first moment on; beat at the full rate from the first question on."""
        limit = asyncio.Semaphore(OPEN_TOGETHER)
        beating = asyncio.create_task(self._beat_forever())
        await asyncio.gather(
            *[self._connect(channels[at // STREAMS_PER_CHANNEL], at, limit) for at in range(self.count)]
        )
        say({"connected": self.count})
        async for _ in questions():
            self._pace_s = self.interval_s
            say({"acked": self.acked, "broken": self.broken, "delays": self.delays[-20000:]})
        beating.cancel()

    async def _connect(self, channel: grpc.aio.Channel, at: int, limit: asyncio.Semaphore) -> None:
        """Open one session, again and again as an agent does while the scheduler is busy with the others."""
        async with limit:
            while True:
                call: Any = channel.stream_stream(OPEN)()
                try:
                    await call.write(hello(self.first + at))
                    welcome = pb.OpenSessionResponse.FromString(await call.read())
                except grpc.aio.AioRpcError as error:
                    print("retrying:", error.details(), file=sys.stderr)
                    await asyncio.sleep(0.5)
                else:
                    break
            assert welcome.HasField("welcome")
        self._calls.append(call)
        self._listening.append(asyncio.create_task(self._listen(call, at)))

    async def _listen(self, call: Any, at: int) -> None:
        try:
            while await call.read() is not grpc.aio.EOF:
                self.acked += 1
                sent = self._sent.pop(at, None)
                if sent is not None:
                    self.delays.append(time.monotonic() - sent)
        except grpc.aio.AioRpcError as error:
            print(error.code(), error.details(), file=sys.stderr)
        self.broken += 1

    async def _beat_forever(self) -> None:
        """Every agent once an interval, evenly spread over it; the message of a round is serialized once."""
        slots, round_ = 50, 0
        while True:
            began, pace_s = time.monotonic(), self._pace_s
            round_ += 1
            beat = pb.OpenSessionRequest(
                heartbeat=pb.Heartbeat(sequence=round_, cpu_used_milli=500)
            ).SerializeToString()
            for slot in range(slots):
                await asyncio.sleep(max(0.0, began + slot / slots * pace_s - time.monotonic()))
                for at in range(slot, len(self._calls), slots):
                    if at % 100 == slot:
                        self._sent.setdefault(at, time.monotonic())
                    try:
                        await self._calls[at].write(beat)
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        continue
            await asyncio.sleep(max(0.0, began + pace_s - time.monotonic()))


def hello(number: int) -> bytes:
    node = node_pb2.Node(
        name=f"pools/bench/nodes/n{number}", address="127.0.0.1", capacity=resources_pb2.Resources(cpu_milli=1000)
    )
    node.devices.extend(resources_pb2.Device(index=index) for index in range(8))
    return pb.OpenSessionRequest(hello=pb.Hello(node=node)).SerializeToString()


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


async def questions() -> AsyncIterator[str]:
    """Lines of standard input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode()
