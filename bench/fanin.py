"""Control-plane fan-in: thousands of agents' heartbeats on one scheduler replica, against unary heartbeats.

`python -m bench.fanin` starts a real etcd, one replica (real TLS, the whole middleware, node keys under leases) and
client processes with one session stream per agent; then, in the same run, unary heartbeats on a bare grpc.aio server
of the same process. Prints JSON.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import grpc
import grpc.aio
import psutil
import uvloop
from prometheus_client import REGISTRY

from bench.fanin_agents import CONNECTING_S, STREAMS_PER_CHANNEL, Agents, questions, say
from chassis.access import PolicyReplica
from chassis.call import Call
from chassis.clock import SystemClock
from chassis.credentials import Credentials
from chassis.etcd import EtcdKV
from chassis.identity import Identity
from chassis.kv import Put
from chassis.paging import Pager
from chassis.rpc_metrics import RpcMetrics
from chassis.server import Listener, Server
from chassis.stack import stack
from lepton.channel import options
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.names import NodeName, PoolName
from lepton.scheduler.v1 import pool_pb2
from services.scheduler import keys
from services.scheduler.config import Nodes, SchedulerConfig
from services.scheduler.scheduler import Scheduler
from tests.harness.etcd import EtcdCluster
from tests.harness.pki import Authority

BEAT: Final = "/bench.Heartbeat/Beat"
ENGINE: Final = "-event_engine_listener"  # as services/scheduler/__main__.py sets it; GRPC_EXPERIMENTS= tries another


async def main(agents: int, seconds: float, clients: int, interval_s: float) -> dict[str, Any]:
    """Both measurements, and what they say."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        authority = Authority()
        for name in ("service/scheduler", "agent/bench"):
            _save(authority.issue(name), work / f"{name.rpartition('/')[2]}.json")
        async with EtcdCluster(work / "etcd") as etcd, _child("serve", folder, etcd.endpoints[0]) as (server, ports):
            process = psutil.Process(server.pid)
            async with _child("unary", folder, str(ports["unary"])) as (unary, _):
                unary_cpu, unary_calls = _cpu(process), (await _ask(unary))["calls"]
                await asyncio.sleep(min(seconds, 8.0))
                unary_calls = (await _ask(unary))["calls"] - unary_calls
                unary_cpu = _cpu(process) - unary_cpu
            async with AsyncExitStack() as started:
                share = [agents // clients + (at < agents % clients) for at in range(clients)]
                began = time.monotonic()
                children = [
                    (await started.enter_async_context(
                        _child("agents", folder, str(ports["mesh"]), str(at), str(count), str(interval_s))
                    ))[0]
                    for at, count in enumerate(share)
                ]  # fmt: skip
                connected_s = time.monotonic() - began
                for child in children:
                    await _ask(child)
                await asyncio.sleep(CONNECTING_S + interval_s)  # until the full rate is reached
                before, heard = [await _ask(child) for child in children], await _ask(server)
                cpu, wall = _cpu(process), time.monotonic()
                await asyncio.sleep(seconds)
                after, heard_then = [await _ask(child) for child in children], heard
                heard = await _ask(server)
                cpu, wall = _cpu(process) - cpu, time.monotonic() - wall
                memory = process.memory_info().rss
            beats = heard["heard"] - heard_then["heard"]
            acked = sum(each["acked"] for each in after) - sum(each["acked"] for each in before)
            broken = sum(each["broken"] for each in after)
            delays = sorted(delay for each in after for delay in each["delays"])
    stream_us, unary_us = 1e6 * cpu / max(beats, 1), 1e6 * unary_cpu / max(unary_calls, 1)
    cuts = quantiles(delays, n=100) if len(delays) > 1 else [0.0] * 99
    return {
        "agents": agents,
        "agents_lost": broken,
        "connect_seconds": round(connected_s, 1),
        "heartbeats_per_s": round(beats / wall, 1),
        "acks_per_s": round(acked / wall, 1),
        "scheduler_cores": round(cpu / wall, 3),
        "scheduler_cores_at_full_rate": round(stream_us * agents / interval_s / 1e6, 3),
        "stream_cpu_us_per_heartbeat": round(stream_us, 1),
        "unary_cpu_us_per_heartbeat": round(unary_us, 1),
        "unary_to_stream": round(unary_us / stream_us, 2),
        "ack_ms_p50": round(1e3 * cuts[49], 1),
        "ack_ms_p99": round(1e3 * cuts[98], 1),
        "scheduler_rss_mib": round(memory / 2**20),
    }


async def serve(folder: Path, etcd: str) -> None:
    """One replica, and a bare server for unary heartbeats."""
    identity = Identity(_load(folder / "scheduler.json"))
    async with AsyncExitStack() as running:
        kv = await running.enter_async_context(EtcdKV([etcd]))
        pool = pool_pb2.Pool(name="pools/bench")
        await kv.txn([], [Put(keys.pool(PoolName("bench")), pool.SerializeToString())])
        config = SchedulerConfig(replica_id="bench", nodes=Nodes())
        scheduler = Scheduler(kv, await Pager.open(kv, keys.PAGE_KEY), SystemClock(), config, _any_node)
        tasks = await running.enter_async_context(asyncio.TaskGroup())
        for loop in scheduler.loops.values():
            running.callback(tasks.create_task(loop()).cancel)
        metrics = RpcMetrics()
        server = Server(
            "scheduler",
            scheduler.registrations,
            listeners=[
                Listener(
                    name="mesh", address="127.0.0.1:0", credentials=identity.server_credentials(require_client=True)
                )
            ],
            middleware=stack(PolicyReplica(), metrics, rate_per_s=0),
            metrics=metrics,
        )
        await server.start()
        bare = grpc.aio.server()
        bare.add_generic_rpc_handlers((_Unary(),))
        unary = bare.add_secure_port("127.0.0.1:0", identity.server_credentials(require_client=True))
        await bare.start()
        await scheduler.ledger.synced.wait()
        say({"mesh": server.ports["mesh"], "unary": unary})
        async for _ in questions():
            say({"heard": REGISTRY.get_sample_value("scheduler_heartbeats_total")})


async def agents(folder: Path, port: str, which: str, count: str, interval_s: str) -> None:
    """The agents of one client process."""
    many = int(count)
    need = -(-many // STREAMS_PER_CHANNEL)
    channels = [_channel(folder, port) for _ in range(need)]
    await Agents(int(which) * 1_000_000, many, float(interval_s)).run(channels)


async def unary(folder: Path, port: str) -> None:
    """Unary heartbeats, sixteen at a time."""
    beat: Any = _channel(folder, port).unary_unary(BEAT)
    message = pb.Heartbeat(sequence=1, cpu_used_milli=500).SerializeToString()
    calls = 0

    async def caller() -> None:
        nonlocal calls
        while True:
            await beat(message, timeout=10)
            calls += 1

    tasks = [asyncio.create_task(caller()) for _ in range(16)]
    say({})
    async for _ in questions():
        say({"calls": calls})
    for task in tasks:
        task.cancel()


class _Unary(grpc.GenericRpcHandler):
    """The bare server: the cheapest heartbeat that a unary call can be."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            self._beat, pb.Heartbeat.FromString, pb.HeartbeatAck.SerializeToString
        )

    async def _beat(self, request: pb.Heartbeat, context: Any) -> pb.HeartbeatAck:
        return pb.HeartbeatAck(sequence=request.sequence)


def _any_node(_call: Call | None) -> Any:
    def check(_name: NodeName) -> None:
        """One certificate stands for all simulated agents, since many share a connection."""

    return check


def _channel(folder: Path, port: str) -> grpc.aio.Channel:
    credentials = Identity(_load(folder / "bench.json")).channel_credentials()
    extra = options(("grpc.ssl_target_name_override", "scheduler"), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, extra)


def _save(credentials: Credentials, path: Path) -> None:
    pems = (credentials.key_pem, credentials.chain_pem, credentials.bundle_pem)
    path.write_text(json.dumps([pem.decode() for pem in pems]))


def _load(path: Path) -> Credentials:
    key, chain, bundle = (text.encode() for text in json.loads(path.read_text()))
    return Credentials(key_pem=key, chain_pem=chain, bundle_pem=bundle)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def _ask(child: asyncio.subprocess.Process) -> dict[str, Any]:
    assert child.stdin is not None
    child.stdin.write(b"?\n")
    return await _answer(child)


async def _answer(child: asyncio.subprocess.Process) -> dict[str, Any]:
    assert child.stdout is not None
    line = await child.stdout.readline()
    if not line:
        raise SystemExit("a child process of the benchmark ended early")
    answer: dict[str, Any] = json.loads(line)
    return answer


@asynccontextmanager
async def _child(*argv: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """A process of this benchmark and its first answer; killed at the end."""
    pipe = asyncio.subprocess.PIPE
    environment = {"GRPC_EXPERIMENTS": ENGINE} | os.environ if argv[0] == "serve" else None
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.fanin", *argv, stdin=pipe, stdout=pipe, limit=1 << 24, env=environment
    )
    try:
        yield child, await _answer(child)
    finally:
        child.kill()
        await child.wait()


if __name__ == "__main__":
    roles: dict[str, Any] = {"serve": serve, "agents": agents, "unary": unary}
    if len(sys.argv) > 1 and sys.argv[1] in roles:
        uvloop.run(roles[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--agents", type=int, default=10_000)
        parser.add_argument("--seconds", type=float, default=20.0)
        parser.add_argument("--clients", type=int, default=2, help="processes that simulate agents")
        parser.add_argument("--interval", type=float, default=1.0, help="seconds between an agent's heartbeats")
        wanted = parser.parse_args()
        print(json.dumps(uvloop.run(main(wanted.agents, wanted.seconds, wanted.clients, wanted.interval)), indent=2))
