"""Two real schedulers on a real etcd, under load, while the one that leads is killed or stopped and resumed.

Nothing acknowledged is lost, nothing is started twice, no device is given twice; without the fence one is.
"""

import asyncio
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from chassis.etcd import EtcdKV
from chassis.identity import Identity
from chassis.kv import DeletePrefix
from chassis.peers import Peers
from lepton.errors import LeptonError
from lepton.names import PoolName
from lepton.scheduler.v1 import pool_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as pb
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from services.scheduler import keys
from tests.harness.agent import ScriptedAgent, Slice
from tests.harness.auditor import Auditor
from tests.harness.etcd import EtcdCluster
from tests.harness.pki import Authority
from tests.harness.scheduler_process import FAST, SchedulerProcess
from tests.harness.scheduling import Workload, workload
from tests.harness.wait import until

pytestmark = pytest.mark.integration

AS_DEPLOYED: Final[Mapping[str, Any]] = {}  # the scheduler's own settings
MOST_WAITING: Final = 120
SUBMITTERS: Final = 3


@dataclass(eq=False)
class World:
    """Two replicas, agents, somebody who submits, and an auditor."""

    folder: Path
    etcd: EtcdCluster
    kv: EtcdKV
    stack: AsyncExitStack
    tasks: asyncio.TaskGroup
    auditor: Auditor
    authority: Authority = field(default_factory=Authority)
    replicas: list[SchedulerProcess] = field(default_factory=list)
    agents: list[ScriptedAgent] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    _running: list["asyncio.Task[None]"] = field(default_factory=list)

    async def replica(self, name: str, **settings: Any) -> SchedulerProcess:
        """Starts a replica."""
        process = SchedulerProcess(name, self.folder, self.etcd.endpoints, self.authority, **settings)
        await self.stack.enter_async_context(process)
        self.replicas.append(await process.start())
        return process

    async def two(self, leader: Mapping[str, Any]) -> tuple[SchedulerProcess, SchedulerProcess]:
        """A leader, and another that waits for its turn."""
        first = await self.replica("a", leader=leader)
        await until(lambda: self.leads(first), 60)
        return first, await self.replica("b", leader=leader)

    async def leads(self, replica: SchedulerProcess) -> bool:
        """Whether a replica holds the leader's key."""
        entry = await self.kv.get(keys.LEADER)
        return entry is not None and entry.value.decode() == replica.name

    async def peers(self, identity: str, replica: SchedulerProcess) -> Any:
        """A channel to a replica."""
        peers = Peers({"scheduler": replica.mesh}, Identity(self.authority.issue(identity)))
        return (await self.stack.enter_async_context(peers)).channel("scheduler")

    async def agent(self, number: int, devices: int, *replicas: SchedulerProcess) -> ScriptedAgent:
        """An agent that connects to the first of the replicas, and to the next when that one goes."""
        agent = ScriptedAgent(f"pools/general/nodes/n{number}", devices, heartbeat_s=0.5)
        await self.stack.enter_async_context(agent)
        channels = [await self.peers(f"agent/n{number}", each) for each in replicas]
        await agent.connect(channels[0])
        self.agents.append(agent)
        self._running.append(self.tasks.create_task(_stay_connected(agent, channels)))
        return agent

    def finish_slices(self) -> None:
        """From now on every slice ends as soon as it is known to run: it holds its device for a moment."""
        for agent in self.agents:
            self._running.append(self.tasks.create_task(_finish(agent)))

    async def submit_for_ever(self, *replicas: SchedulerProcess) -> list["asyncio.Task[None]"]:
        """Clients that submit as fast as they can, and repeat to the other replica what was not acknowledged."""
        stubs = [SchedulerServiceStub(await self.peers("service/trainer", each)) for each in replicas]
        tasks = [self.tasks.create_task(self._submit(number, stubs)) for number in range(SUBMITTERS)]
        self._running += tasks
        return tasks

    async def submit(self, stub: Any, prefix: str) -> None:
        """Submits four workloads once."""
        answer = await stub.BatchCreateWorkloads(_four(prefix))
        assert not any(each.code for each in answer.results)
        self.acknowledged |= {each.name for each in answer.results}

    async def _submit(self, submitter: int, stubs: list[Any]) -> None:
        at = submitter
        for number in range(1_000_000):
            await self.until_done(lambda done: len(self.acknowledged) - done < MOST_WAITING)
            request = _four(f"s{submitter}-{number}-")
            left = True
            while left:
                with suppress(LeptonError):
                    answer = await stubs[at % len(stubs)].BatchCreateWorkloads(request, timeout=2)
                    self.acknowledged |= {each.name for each in answer.results if each.code == 0}
                    left = any(each.code for each in answer.results)
                    assert {each.code for each in answer.results} <= {0, 14}, "a repeat is answered like the first"
                at += left

    async def until_done(self, condition: Any, deadline_s: float = 60.0) -> None:
        """Wait until so many workloads have succeeded."""
        async with asyncio.timeout(deadline_s), self.auditor.changed:
            await self.auditor.changed.wait_for(lambda: condition(self.done))

    @property
    def done(self) -> int:
        """How many workloads have succeeded."""
        return sum(state == Workload.SUCCEEDED for state in self.auditor.states.values())

    def started(self) -> Counter[tuple[str, int]]:
        """How often a process was begun for each slice, whatever the generation."""
        return Counter((name, index) for agent in self.agents for name, _, index in agent.starts)

    async def check(self, deadline_s: float = 60.0) -> None:
        """Whatever was acknowledged is done in the end, and once."""
        await self.auditor.until(self.acknowledged, Workload.SUCCEEDED, deadline_s)
        assert not self.auditor.violations
        assert set(self.started().values()) == {1}
        assert {name for name, _ in self.started()} >= self.acknowledged
        assert set(self.auditor.generations.values()) == {1}

    async def end(self, *tasks: "asyncio.Task[None]") -> None:
        """Ends these tasks; without any, all."""
        for task in tasks or self._running:
            task.cancel()
        await asyncio.gather(*(tasks or self._running), return_exceptions=True)


@pytest.fixture
async def world(etcd: EtcdCluster, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        kv = await stack.enter_async_context(EtcdKV(etcd.endpoints))
        await kv.txn([], [DeletePrefix(keys.ROOT)])
        pool = pool_pb2.Pool(name="pools/general")
        await kv.put(keys.pool(PoolName("general")), pool.SerializeToString())
        auditor = Auditor(kv)
        async with asyncio.TaskGroup() as tasks:
            auditing = tasks.create_task(auditor.run())
            world = World(tmp_path, etcd, kv, stack, tasks, auditor)
            yield world
            await world.end()
            auditing.cancel()
        await stack.aclose()
    async with EtcdKV(etcd.endpoints) as kv:
        await kv.txn([], [DeletePrefix(keys.ROOT)])


async def _stay_connected(agent: ScriptedAgent, channels: list[Any]) -> None:
    at = 0
    while True:
        await agent.until(lambda: agent.error is not None, deadline_s=600)
        at += 1
        with suppress(LeptonError, TimeoutError):
            await agent.connect(channels[at % len(channels)])


async def _finish(agent: ScriptedAgent) -> None:
    while True:
        await agent.until(lambda: agent.acks, deadline_s=600)
        while agent.acks:
            ack = agent.acks.pop()
            running = agent.slices.get((ack.workload, ack.index))
            if running is not None and ack.state == running.slice.state == Slice.RUNNING:
                agent.end(running, Slice.SUCCEEDED)


@pytest.mark.parametrize(
    ("leader", "number"),
    [
        pytest.param(FAST, signal.SIGKILL, id="killed"),
        pytest.param(FAST, signal.SIGSTOP, id="stopped"),
        pytest.param(AS_DEPLOYED, signal.SIGKILL, id="killed-as-deployed", marks=pytest.mark.slow),
        pytest.param(AS_DEPLOYED, signal.SIGSTOP, id="stopped-as-deployed", marks=pytest.mark.slow),
    ],
)
async def test_another_takes_over_under_load_and_nothing_is_lost_or_done_twice(
    world: World, leader: Mapping[str, Any], number: signal.Signals
) -> None:
    first, second = await world.two(leader)
    # A killed replica's agents go to the other one; one that stands still would keep them until their own fence.
    for at in range(4):
        is_on_first = number == signal.SIGKILL and at % 2
        await world.agent(at, 4, *([first, second] if is_on_first else [second]))
    world.finish_slices()
    submitting = await world.submit_for_ever(first, second)
    await world.until_done(lambda done: done >= 100)
    first.signal(number)
    stopped_at, done_then = time.monotonic(), world.done
    await until(lambda: world.leads(second), 30)
    await world.until_done(lambda done: done > done_then + MOST_WAITING)  # more than what was placed before
    took_s = time.monotonic() - stopped_at
    assert took_s <= 20
    if number == signal.SIGSTOP:
        first.signal(signal.SIGCONT)
        await until(lambda: "leadership lost" in first.log, 20)
    await world.until_done(lambda done: done > done_then + 3 * MOST_WAITING)
    await world.end(*submitting)
    await world.check()
    print(f"took over in {took_s:.1f} s; {len(world.acknowledged)} workloads")


@pytest.mark.parametrize(
    "module",
    ["services.scheduler", "tests.harness.hasty_scheduler"],
    ids=["stored", "control-acknowledged-before-stored"],
)
async def test_what_a_leader_has_acknowledged_outlives_it(world: World, module: str) -> None:
    first = await world.replica("a", module=module)
    await until(lambda: world.leads(first), 60)
    second = await world.replica("b")
    await world.agent(1, 4, second)
    world.finish_slices()
    to_first, to_second = [SchedulerServiceStub(await world.peers("service/trainer", each)) for each in (first, second)]
    await world.submit(to_first, "a")
    first.signal(signal.SIGKILL)
    await world.submit(to_second, "b")
    await world.until_done(lambda done: done >= 4)  # b's, behind a's in the queue
    if module == "services.scheduler":
        await world.check()
        return
    with pytest.raises(AssertionError, match="are not in state"):
        await world.check(deadline_s=1.0)


@pytest.mark.parametrize("is_fenced", [True, False], ids=["fenced", "control-without-the-fence"])
async def test_a_leader_that_resumes_with_a_decision_in_its_hands_writes_nothing(world: World, is_fenced: bool) -> None:
    """It decided to give a device to `low`, stood still, and meanwhile the device went to `high`."""
    variables = {"STOP_BEFORE": "low"} | ({} if is_fenced else {"UNFENCED": "1"})
    old = await world.replica("old", module="tests.harness.stale_leader", variables=variables)
    await until(lambda: world.leads(old), 60)
    new = await world.replica("new")
    agent = await world.agent(1, 1, new)
    stub = SchedulerServiceStub(await world.peers("service/trainer", new))

    async def submit(workload_id: str, priority: int) -> str:
        request = pb.CreateWorkloadRequest(
            parent="projects/acme",
            workload_id=workload_id,
            workload=workload(1, kind=Workload.BATCH, cpu_milli=10, priority=priority),
        )
        answer = await stub.CreateWorkload(request)
        return str(answer.name)

    first = await submit("first", 5)
    await agent.until(lambda: agent.running(first))
    low = await submit("low", 0)
    await until(lambda: _has_reason(stub, low))
    agent.end(agent.running(first)[0], Slice.SUCCEEDED)
    await until(lambda: old.is_stopped, 20)
    high = await submit("high", 9)
    await agent.until(lambda: agent.running(high), deadline_s=30)
    assert await world.leads(new)
    old.signal(signal.SIGCONT)
    if not is_fenced:
        await until(lambda: world.auditor.violations, 20)
        assert "low" in world.auditor.violations[0]
        return
    await until(lambda: "another replica leads" in old.log, 20)
    agent.end(agent.running(high)[0], Slice.SUCCEEDED)
    await agent.until(lambda: agent.running(low), deadline_s=30)
    assert not world.auditor.violations
    assert set(world.started().values()) == {1}


def _four(prefix: str) -> pb.BatchCreateWorkloadsRequest:
    return pb.BatchCreateWorkloadsRequest(
        parent="projects/acme",
        requests=[
            pb.CreateWorkloadRequest(
                workload_id=f"{prefix}{each}",
                workload=workload(1, kind=Workload.BATCH, cpu_milli=10),
                request_id=str(uuid.uuid4()),
            )
            for each in range(4)
        ],
    )


async def _has_reason(stub: Any, name: str) -> bool:
    answer: Workload = await stub.GetWorkload(pb.GetWorkloadRequest(name=name))
    return bool(answer.message)
