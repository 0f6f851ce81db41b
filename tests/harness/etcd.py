"""Real etcd servers, on free ports, with their data in a directory of the test."""

import asyncio
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest
import pytest_asyncio
from grpc import aio

from chassis.etcd import EtcdKV
from chassis.etcdpb import rpc_pb2, rpc_pb2_grpc
from deploy import tools
from tests.harness.ports import free_ports
from tests.harness.wait import until

# Ten heartbeats to an election, as by default, but twice as fast; the shortest lease is then 1 s.
_PACE: Final = ("--heartbeat-interval=50", "--election-timeout=500")
_DIE_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


class EtcdMember:
    """One etcd process; killed and started again it goes on with the same data and ports."""

    def __init__(self, name: str, directory: Path, ports: Sequence[int], scheme: str = "http") -> None:
        self.name = name
        self.endpoint = f"127.0.0.1:{ports[0]}"
        self.peer_url = f"http://127.0.0.1:{ports[1]}"
        self.metrics_url = f"http://127.0.0.1:{ports[2]}"
        self._client_url = f"{scheme}://127.0.0.1:{ports[0]}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, initial_cluster: str, extra: Sequence[str] = ()) -> None:
        """Start the process; it is not healthy yet."""
        self._directory.mkdir(parents=True, exist_ok=True)
        argv = [
            *(*_DIE_WITH_US, str(tools.etcd()), f"--name={self.name}", f"--data-dir={self._directory / 'data'}"),
            *(f"--listen-client-urls={self._client_url}", f"--advertise-client-urls={self._client_url}"),
            *(f"--listen-peer-urls={self.peer_url}", f"--initial-advertise-peer-urls={self.peer_url}"),
            *(f"--initial-cluster={initial_cluster}", f"--listen-metrics-urls={self.metrics_url}"),
            *(*_PACE, "--log-level=warn", *extra),
        ]
        with (self._directory / "etcd.log").open("ab") as output:
            self._process = subprocess.Popen(argv, stdout=output, stderr=output, env={"PATH": os.environ["PATH"]})

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGSTOP and SIGCONT to pause it."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def is_healthy(self) -> bool:
        """Whether it has a leader and can commit."""
        return '"true"' in await self.page("/health")

    async def page(self, path: str) -> str:
        """A page of its metrics listener; empty while it does not answer."""

        def read() -> str:
            try:
                with urllib.request.urlopen(self.metrics_url + path, timeout=2) as response:
                    return str(response.read(), "utf-8")
            except OSError:
                return ""

        return await asyncio.to_thread(read)  # urllib blocks


class EtcdCluster:
    """Some etcd members that form one cluster."""

    def __init__(self, directory: Path, size: int = 1, scheme: str = "http", extra: Sequence[str] = ()) -> None:
        ports = free_ports(3 * size)
        self.members = [
            EtcdMember(f"m{at}", directory / f"m{at}", ports[3 * at : 3 * at + 3], scheme) for at in range(size)
        ]
        self._initial_cluster = ",".join(f"{member.name}={member.peer_url}" for member in self.members)
        self._extra = extra

    @property
    def endpoints(self) -> list[str]:
        """Where clients connect."""
        return [member.endpoint for member in self.members]

    async def start(self, deadline_s: float = 30) -> None:
        """Start every member that does not run and wait until all are healthy."""
        for member in self.members:
            member.kill()
            member.start(self._initial_cluster, self._extra)
        for member in self.members:
            await until(member.is_healthy, deadline_s)

    async def restart(self, member: EtcdMember) -> None:
        """Start one member again on its data."""
        member.kill()
        member.start(self._initial_cluster, self._extra)
        await until(member.is_healthy, 30)

    def kill(self) -> None:
        """SIGKILL to all."""
        for member in self.members:
            member.kill()

    async def leader(self) -> EtcdMember:
        """The member that leads."""
        for member in self.members:
            async with aio.insecure_channel(member.endpoint) as channel:
                stub: rpc_pb2_grpc.MaintenanceAsyncStub = rpc_pb2_grpc.MaintenanceStub(channel)
                status = await stub.Status(rpc_pb2.StatusRequest(), timeout=5)
                if status.leader == status.header.member_id:
                    return member
        raise AssertionError("the cluster has no leader")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One etcd for the whole run, for tests that leave it alive; each keeps to keys of its own."""
    cluster = EtcdCluster(tmp_path_factory.mktemp("etcd"))
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.kill()


@pytest_asyncio.fixture
async def etcd_kv(etcd: EtcdCluster) -> AsyncIterator[EtcdKV]:
    """A client of the shared etcd."""
    async with EtcdKV(etcd.endpoints) as kv:
        yield kv


@pytest_asyncio.fixture
async def own_etcd(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """An etcd of the test's own, to be killed."""
    async with EtcdCluster(tmp_path / "etcd") as cluster:
        yield cluster


@pytest_asyncio.fixture
async def etcd_trio(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """A cluster of three."""
    async with EtcdCluster(tmp_path / "etcd", size=3) as cluster:
        yield cluster
