"""The real process, on a real etcd, killed with SIGKILL while a gang runs."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, Self

import pytest
import tomli_w

from chassis.etcd import EtcdKV
from chassis.identity import Identity
from chassis.kv import DeletePrefix, Put
from chassis.peers import Peers
from lepton.errors import Unavailable
from lepton.names import PoolName
from lepton.scheduler.v1 import pool_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.scheduler import keys
from tests.harness.agent import ScriptedAgent, Slice
from tests.harness.etcd import EtcdCluster
from tests.harness.pki import Authority
from tests.harness.ports import free_ports
from tests.harness.scheduling import Workload, workload
from tests.harness.wait import until

pytestmark = pytest.mark.integration


class SchedulerProcess:
    """`python -m services.scheduler` with its configuration."""

    def __init__(self, folder: Path, etcd: EtcdCluster, authority: Authority) -> None:
        self.ports_file = folder / "ports.json"
        self.config = folder / "scheduler.toml"
        self.mesh = free_ports(1)[0]
        state = folder / "state"
        state.mkdir()
        credentials = authority.issue("service/scheduler")
        credentials.save(state)
        bundle = folder / "ca.pem"
        bundle.write_bytes(authority.bundle_pem)
        self.config.write_bytes(
            tomli_w.dumps(
                {
                    "etcd_endpoints": etcd.endpoints,
                    "listen": {"mesh": f"127.0.0.1:{self.mesh}", "ports_file": str(self.ports_file)},
                    "identity": {
                        "state_dir": str(state), "trust_bundle": str(bundle), "auth_address": "127.0.0.1:1",
                    },
                    "peers": {"auth": "127.0.0.1:1"},
                    "nodes": {"ttl_s": 6.0},
                    "leader": {"ttl_s": 3, "renew_deadline_s": 2.0, "retry_s": 0.5},
                }
            ).encode()
        )  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.ports_file.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.scheduler", "--config", str(self.config), env=dict(os.environ)
        )
        await until(self.ports_file.exists, 30)

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def terminate(self) -> int:
        assert self._process is not None
        self._process.terminate()
        return await self._process.wait()

    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads(self.ports_file.read_text())
        return ports


async def _state(stub: Any, name: str) -> Workload:
    answer: Workload = await stub.GetWorkload(pb.GetWorkloadRequest(name=name))
    return answer


async def _connects(agent: ScriptedAgent, node: Peers) -> bool:
    try:
        await agent.connect(node.channel("scheduler"))
    except Unavailable:
        return False
    return True


async def test_a_killed_scheduler_comes_back_and_nothing_is_started_twice(etcd: EtcdCluster, tmp_path: Path) -> None:
    authority = Authority()
    async with EtcdKV(etcd.endpoints) as kv, SchedulerProcess(tmp_path, etcd, authority) as process:
        pool = pool_pb2.Pool(name="pools/general")
        await kv.txn([], [DeletePrefix(keys.ROOT)])
        await kv.txn([], [Put(keys.pool(PoolName("general")), pool.SerializeToString())])
        await process.start()
        address = {"scheduler": f"127.0.0.1:{process.mesh}"}
        async with (
            Peers(address, Identity(authority.issue("service/trainer"))) as trainer,
            Peers(address, Identity(authority.issue("agent/n1"))) as node,
            ScriptedAgent("pools/general/nodes/n1", 4, heartbeat_s=0.5) as agent,
        ):
            stub = SchedulerServiceStub(trainer.channel("scheduler"))
            await agent.connect(node.channel("scheduler"))
            created = await stub.CreateWorkload(
                pb.CreateWorkloadRequest(parent="projects/acme", workload_id="job", workload=workload(4))
            )
            await agent.until(lambda: len(agent.running(created.name)) == 4)
            await process.kill()
            await agent.until(lambda: agent.error is not None)
            await process.start()
            await until(lambda: _connects(agent, node), 6)
            beats = agent.beats_acked
            await agent.until(lambda: agent.beats_acked > beats + 1)
            assert len(agent.starts) == 4
            assert not agent.stops
            for each in agent.running(created.name):
                agent.end(each, Slice.SUCCEEDED)

            async def is_done() -> bool:
                return (await _state(stub, created.name)).state == Workload.SUCCEEDED

            await until(is_done, 20)
            assert (await _state(stub, created.name)).generation == 1
        assert await process.terminate() == 0
        await kv.txn([], [DeletePrefix(keys.ROOT)])
