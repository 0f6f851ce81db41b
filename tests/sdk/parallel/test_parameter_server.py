"""Parameter servers: real processes that are killed and come back; the bound on staleness, message by message."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lepton.errors import PermissionDenied, Unavailable
from lepton.train.parallel.optimizing import Optimizing
from lepton.train.parallel.parameter_server import server as served
from lepton.train.parallel.parameter_server.client import Client
from lepton.train.parallel.parameter_server.clock import Clock
from lepton.train.parallel.precision import Precision
from services.agent.launcher import Exit, LauncherClient, RankHandle
from tests.harness.gang import PlayedAgent, start_gang

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.integration]

Place = tuple[tuple[str, int], str]  # a server's address and secret
SERVERS, WORKERS, STEPS, STALENESS = 2, 3, 120, 4


async def start(launcher: LauncherClient, folder: Path, *, pausing: str, pause: int, staleness: int) -> PlayedAgent:
    plan = {"data": "PARAMETER_SERVER", "servers": SERVERS, "maxStaleness": staleness}
    return await start_gang(
        launcher,
        world_size=SERVERS + WORKERS,
        folder=folder,
        entry="tests.harness.ranks.serving",
        argv=(str(folder), str(STEPS), pausing, str(pause)),
        env={"LEPTON_PARALLELISM": json.dumps(plan)},
    )


async def reach(worker: RankHandle, step: int) -> int:
    """Reads until the worker has made that step; its first step since the last read."""
    first = 0
    while True:
        line = (await worker.stdout.readline()).decode()
        assert line.startswith("step "), line + (await worker.stderr.read()).decode()
        first = first or int(line[5:])
        if int(line[5:]) >= step:
            return first


async def end(gang: PlayedAgent, handles: list[RankHandle]) -> list[dict[str, Any]]:
    """The last lines of the workers, once all ranks have ended well."""
    outputs = [await handle.stdout.read() for handle in handles]
    exits = [await handle.exited for handle in handles]
    assert exits == [Exit(code=0)] * len(handles), [(await handle.stderr.read()).decode() for handle in handles]
    for handle in {*handles, *gang.handles}:
        handle.close()
    gang.store.kill()
    await gang.store.exited
    return [json.loads(output.splitlines()[-1]) for output in outputs[SERVERS:]]


async def test_it_converges_with_one_of_three_workers_killed_and_replaced(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    half = STEPS // 2
    gang = await start(launcher, tmp_path, pausing="0,2", pause=half, staleness=STALENESS)
    first, victim, third = gang.handles[SERVERS:]
    await reach(victim, 3)
    victim.kill(signal.SIGKILL)
    assert (await victim.exited).signal == signal.SIGKILL
    for other in (first, third):  # they go far beyond what the dead one would have let them
        await reach(other, half)
    again = await launcher.start(replace(gang.launches[SERVERS + 1], rank_id=f"{victim.rank_id}.again"))
    assert await reach(again, half + 1) == half + 1  # it begins where the slowest is
    (tmp_path / "go").touch()
    told = await end(gang, [*gang.handles[:SERVERS], first, again, third])
    victim.close()
    assert [each["joined_after"] for each in told] == [0, half, 0]
    assert max(each["furthest"] for each in told) <= STALENESS
    assert max(each["loss"] for each in told) < 1e-3
    weights = load_file(tmp_path / "weights")
    assert torch.allclose(weights["1.weight"] @ weights["0.weight"], torch.tensor([[1.0, -2.0, 0.5, 3.0]]), atol=0.05)
    assert told[0]["momenta"] == ["0.weight", "1.bias", "1.weight"]  # the saved state has all servers' parts


async def test_without_the_bound_the_fast_run_away(launcher: LauncherClient, tmp_path: Path) -> None:
    """The negative control: the same run is caught being too far ahead once the bound is as good as none."""
    gang = await start(launcher, tmp_path, pausing="1", pause=2, staleness=10 * STEPS)
    for fast in (gang.handles[SERVERS], gang.handles[SERVERS + 2]):
        await reach(fast, STEPS)
    (tmp_path / "go").touch()
    told = await end(gang, gang.handles)
    assert max(each["furthest"] for each in told) >= STEPS - 1 - 2


@asynccontextmanager
async def one_server(
    *, workers: int, staleness: int
) -> AsyncIterator[tuple[tuple[tuple[str, int], str], asyncio.Task[None]]]:
    torch.manual_seed(0)
    layer = nn.Linear(2, 1)
    cpu = torch.device("cpu")
    optimizing = Optimizing(
        dict(layer.named_parameters()), lambda p: torch.optim.SGD(p, lr=1.0), Precision("fp32", cpu), device=cpu
    )
    listener = socket.create_server(("127.0.0.1", 0))
    address: tuple[str, int] = listener.getsockname()[:2]
    clock = Clock(workers=workers, max_staleness=staleness)
    task = asyncio.create_task(served.Server(optimizing, listener, "secret", workers=workers, clock=clock).run())
    try:
        yield (address, "secret"), task
    finally:
        task.cancel()


async def ask(client: Client, kind: str, **fields: Any) -> Any:
    return await asyncio.to_thread(client.ask, {"kind": kind, **fields}, [{}])


async def push(client: Client) -> None:
    await ask(client, "push", learning_rate=0.1)


@pytest.mark.parametrize("staleness", [0, 2, 1000])
async def test_a_worker_waits_until_the_slowest_is_near_enough(staleness: int) -> None:
    async with one_server(workers=2, staleness=staleness) as (place, _):
        fast = await asyncio.to_thread(Client, [place], worker=0)
        slow = await asyncio.to_thread(Client, [place], worker=1)
        for _ in range(3):
            await push(fast)
        pull = asyncio.create_task(ask(fast, "pull"))
        for _ in range(2):
            await ask(slow, "snapshot")  # answered after the server has heard of the pull, on another connection
        is_bound = staleness < 3
        if is_bound:
            assert not pull.done()
            for _ in range(3 - staleness):
                assert not pull.done()
                await push(slow)
        assert (await pull)[0][0]["furthest"] == min(staleness, 3)
        fast.close()
        slow.close()


async def test_a_worker_that_vanishes_is_not_waited_for_and_one_that_comes_begins_with_the_slowest() -> None:
    async with one_server(workers=2, staleness=1) as (place, task):
        first = await asyncio.to_thread(Client, [place], worker=0)
        second = await asyncio.to_thread(Client, [place], worker=1)
        for _ in range(5):
            await push(first)
        pull = asyncio.create_task(ask(first, "pull"))
        second.close()
        await pull
        second = await asyncio.to_thread(Client, [place], worker=1)
        assert second.step == 5
        late = await asyncio.to_thread(Client, [place], worker=1)  # a second life, its first not known to be over
        with pytest.raises(Unavailable):
            await push(second)
        await ask(first, "finish")
        await ask(late, "finish")
        await task
        for client in (first, second, late):
            client.close()


async def test_neither_side_speaks_to_one_that_does_not_know_the_secret() -> None:
    async with one_server(workers=1, staleness=0) as ((address, secret), _):
        with pytest.raises(Unavailable):
            await asyncio.to_thread(Client, [(address, "guessed")], worker=0)
        (await asyncio.to_thread(Client, [(address, secret)], worker=0)).close()
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        connecting = asyncio.create_task(asyncio.to_thread(Client, [(impostor.getsockname()[:2], "secret")], worker=0))
        connection, _ = await asyncio.to_thread(impostor.accept)
        with connection:
            from lepton.train.parallel.parameter_server import frames

            connection.sendall(b"".join(frames.encode({"nonce": "n"})))
            connection.sendall(b"".join(frames.encode({"step": 0, "proof": "made up"})))
            with pytest.raises(PermissionDenied):
                await connecting


async def test_garbage_on_the_wire_ends_that_connection_only() -> None:
    async with one_server(workers=1, staleness=0) as ((address, secret), _):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 12, b"\x00\x00\x00\x02" + b"\x00" * 8 + b"{]"):
            with socket.create_connection(address) as connection:
                connection.sendall(garbage)
                await asyncio.to_thread(_drain, connection)
        worker = await asyncio.to_thread(Client, [(address, secret)], worker=0)
        with pytest.raises(Unavailable, match="FRAME_INVALID"):
            await asyncio.to_thread(worker.ask, {"kind": "push", "learning_rate": 1.0}, [{"weight": torch.zeros(7, 7)}])
        worker.close()


def _drain(connection: socket.socket) -> None:
    while connection.recv(1 << 12):
        pass
