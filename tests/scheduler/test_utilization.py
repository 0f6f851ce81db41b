"""The use of the fleet over time: what is sampled, how it is kept, what is said of it, and who may ask."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.errors import InvalidArgument, NotFound
from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub
from services.scheduler.queue_values import Queue, Quota
from services.scheduler.snapshot import Assignment, Ran, Slice, SliceState, Snapshot, State
from services.scheduler.utilization import Utilization
from services.scheduler.utilization.amounts import RESOURCES
from services.scheduler.utilization.bottleneck import Use, bottleneck, sentence, slope_per_hour
from services.scheduler.utilization.history import Grain, History
from services.scheduler.utilization.tally import Tally
from tests.harness.agent import ScriptedAgent
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, start_replica, until, workload
from tests.scheduler import world

CPU, DEVICES = RESOURCES.index("cpu_milli"), RESOURCES.index("device_milli")
HOUR_S = 3600


def placed(name: str, *slices: tuple[str, int], generation: int = 1, state: SliceState = SliceState.RUNNING) -> Any:
    """What a workload holds: a device and a core on each of these."""
    demand = world.group(1, cpu_milli=1000).demand
    return name, (
        Assignment(
            workload=name,
            generation=generation,
            pool="pools/p",
            slices=tuple(
                Slice(index=at, group="worker", node=f"pools/p/nodes/{node}", devices=(device,), state=state)
                for at, (node, device) in enumerate(slices)
            ),
            sessions={f"pools/p/nodes/{node}": f"session of {node}" for node, _ in slices},
            groups={"worker": Ran(demand=demand, program=b"1")},
        ),
    )


def tallied(snapshot: Snapshot, **used: tuple[float, float]) -> Tally:
    tally = Tally(snapshot, {f"pools/p/nodes/{node}": use for node, use in used.items()})
    tally.wait(snapshot.workloads.values())
    tally.hold(snapshot.assignments.items())
    list(tally.finish())
    return tally


class TestTally:
    """What one sample sums up."""

    def snapshot(self, **fields: Any) -> Snapshot:
        nodes = {each.name: each for each in (world.node("n1"), world.node("n2"), world.node("m", pool="pools/q"))}
        return Snapshot(pools=frozenset({"pools/p", "pools/q"}), nodes=nodes, **fields)

    def test_what_is_held_counts_for_its_node_pool_project_and_all_queues_above_it(self) -> None:
        queues = {
            "queues/top": Queue(name="queues/top"),
            "queues/team": Queue(name="queues/team", parent="queues/top", projects=("projects/acme",)),
        }
        running = world.workload("projects/acme/workloads/a", state=State.RUNNING)
        held = dict([placed(running.name, ("n1", 0), ("n1", 1), ("n2", 0))])
        tally = tallied(self.snapshot(workloads={running.name: running}, assignments=held, queues=queues))
        for name, devices in {
            "pools/p/nodes/n1": 2, "pools/p/nodes/n2": 1, "pools/p": 3, "pools/q": 0,
            "projects/acme": 3, "queues/team": 3, "queues/top": 3,
        }.items():  # fmt: skip
            assert tally.values(name)[DEVICES] == 1000 * devices, name

    def test_what_has_ended_or_lies_on_an_older_session_is_not_held(self) -> None:
        ended = placed("projects/a/workloads/ended", ("n1", 0), state=SliceState.SUCCEEDED)
        name, (older,) = placed("projects/a/workloads/older", ("n1", 0))
        stale = Assignment(
            workload=name, generation=1, pool="pools/p", slices=older.slices, groups=older.groups,
            sessions={"pools/p/nodes/n1": "before"},
        )  # fmt: skip
        tally = tallied(self.snapshot(assignments=dict([ended, (name, (stale,))])))
        assert tally.values("pools/p")[DEVICES] == 0

    def test_what_waits_is_wanted_in_every_pool_that_will_do(self) -> None:
        here = world.workload(
            "projects/a/workloads/here", world.group(2, most=9), state=State.PENDING, pools=("pools/p",)
        )
        any_ = world.workload("projects/b/workloads/any", world.group(3), state=State.PENDING)
        held = world.workload("projects/b/workloads/held", world.group(5), state=State.PENDING, is_held=True)
        runs = world.workload("projects/b/workloads/runs", world.group(7), state=State.RUNNING)
        tally = tallied(self.snapshot(workloads={each.name: each for each in (here, any_, held, runs)}))
        wanted = {name: amounts[DEVICES] / 1000 for name, amounts in tally.wanted.items()}
        assert wanted == {"pools/p": 5, "pools/q": 3, "projects/a": 2, "projects/b": 3}

    def test_real_use_is_ascribed_by_what_is_held(self) -> None:
        held = dict(
            [
                placed("projects/a/workloads/a", ("n1", 0), ("n1", 1), ("n1", 2)),
                placed("projects/b/workloads/b", ("n1", 3)),
            ]
        )
        tally = tallied(self.snapshot(assignments=held), n1=(2000.0, 400.0), n2=(500.0, 100.0), gone=(9e9, 9e9))
        assert tally.used["pools/p/nodes/n1"][CPU] == 2000
        assert tally.used["pools/p"][:2] == [2500, 500]
        assert (tally.used["projects/a"][CPU], tally.used["projects/b"][CPU]) == (1500, 500)

    @given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(("n1", "n2")), st.integers(0, 7)), max_size=12))
    def test_nothing_is_lost_between_nodes_pools_and_projects(self, slices: list[tuple[str, str, int]]) -> None:
        held = dict(
            placed(f"projects/{project}/workloads/w{at}", (node, device))
            for at, (project, node, device) in enumerate(slices)
        )
        tally = tallied(self.snapshot(assignments=held), n1=(1000.0, 1.0), n2=(500.0, 1.0))
        by_node = [tally.values(f"pools/p/nodes/{node}") for node in ("n1", "n2")]
        by_project = [tally.values(f"projects/{project}") for project in "ab"]
        whole = tally.values("pools/p")
        assert sum(each[DEVICES] for each in by_node) == whole[DEVICES] == 1000 * len(slices)
        assert sum(each[DEVICES] for each in by_project) == whole[DEVICES]
        busy = {node for _, node, _ in slices}
        used = sum({"n1": 1000.0, "n2": 500.0}[node] for node in busy)
        assert sum(tally.used[f"projects/{project}"][CPU] for project in "ab") == pytest.approx(used)


class TestHistory:
    """Rings of points."""

    def test_points_are_means_and_coarser_the_further_back(self) -> None:
        history = History((Grain(step_s=10, count=6), Grain(step_s=60, count=10)), 1, limit=4)
        for at in range(0, 300, 10):
            history.record(at, {"a": [at]})
        recent = history.read("a", 240, 290)
        assert recent.step_s == 10
        assert list(zip(recent.times.tolist(), recent.values[:, 0].tolist(), strict=True)) == [
            (at, at) for at in range(240, 300, 10)
        ]
        older = history.read("a", 0, 290)
        assert (older.step_s, older.times.tolist()) == (60, [0, 60, 120, 180, 240])
        assert older.values[:, 0].tolist() == [25, 85, 145, 205, 265]
        assert history.read("a", -1e6, 290).step_s == 60
        asked = history.read("a", 240, 290, step_s=30)
        assert (asked.step_s, asked.values[:, 0].tolist()) == (30, [250, 280])

    @given(
        st.lists(st.tuples(st.integers(1, 90), st.floats(0, 1e6, width=32), st.booleans()), min_size=1, max_size=60),
        st.integers(1, 12),
    )
    def test_a_ring_holds_what_a_list_of_all_samples_would(
        self, samples: list[tuple[int, float, bool]], count: int
    ) -> None:
        history, kept, at = History((Grain(step_s=20, count=count),), 1, limit=4), list[tuple[int, float]](), 1000
        for pause, value, is_there in samples:
            at += pause
            history.record(at, {"a": [value]} if is_there else {"other": [1.0]})
            if is_there:
                kept.append((at, value))
        read = history.read("a", 0, at)
        windows: dict[int, list[float]] = {}
        for moment, value in kept:
            if moment // 20 > at // 20 - count:
                windows.setdefault(moment // 20 * 20, []).append(value)
        assert read.times.tolist() == sorted(windows)
        assert read.values[:, 0].tolist() == pytest.approx(
            [float(np.mean(windows[each])) for each in sorted(windows)], rel=1e-4, abs=1e-3
        )

    def test_memory_is_bounded_and_the_name_longest_unseen_makes_room(self) -> None:
        history = History((Grain(step_s=10, count=6),), 2, limit=3)
        for at, names in ((0, "ab"), (10, "bc"), (20, "cd")):
            history.record(at, {name: [1.0, 2.0] for name in names})
        assert [name in history for name in "abcd"] == [False, True, True, True]
        size = history.size_bytes
        history.record(30, {name: [1.0, 2.0] for name in "efghi"})
        assert (len(history), history.size_bytes) == (3, size)
        assert not len(history.read("a", 0, 30).times)
        assert not len(history.read("e", 0, 20).times)  # nothing of whoever had the column before

    def test_a_name_of_which_no_point_is_left_is_forgotten(self) -> None:
        history = History((Grain(step_s=10, count=6),), 1, limit=3)
        history.record(0, {"a": [1.0]})
        history.record(61, {"b": [1.0]})
        assert "a" not in history
        history.record(71, {}, absent=[0.0])
        assert history.read("b", 0, 71).values.tolist() == [[1.0], [0.0]]


def use(resource: str, share: float, *, wanted: float = 0.0, capacity: float = 1000.0, slope: float = 0.0) -> Use:
    """A resource with an hour's points, which end at this share."""
    hours = np.linspace(-1, 0, 61)
    allocated = (share + slope * hours) * capacity
    flat = np.zeros(61)
    return Use(
        resource=resource,
        capacity=capacity,
        times=(hours * HOUR_S).astype(np.int64),
        allocated=allocated,
        used=flat,
        wanted=flat + wanted,
    )


class TestBottleneck:
    """What limits, in words and numbers."""

    def test_the_bottleneck_is_the_fullest_weighted_by_what_waits(self) -> None:
        full, waited = use("cpu_milli", 0.95), use("device_milli", 0.8, wanted=500)
        found = bottleneck([full, waited, use("memory_bytes", 0.2)])
        assert found is waited
        assert bottleneck([full, use("device_milli", 0.8, wanted=100)]) is full
        assert bottleneck([use("cpu_milli", 0.85, wanted=100)]) is None

    def test_a_tie_goes_to_the_first_by_name(self) -> None:
        found = bottleneck([use("memory_bytes", 1.0), use("cpu_milli", 1.0)])
        assert found is not None
        assert found.resource == "cpu_milli"

    def test_the_sentence_has_the_numbers(self) -> None:
        devices = use("device_milli", 0.95, wanted=2000, capacity=10_000, slope=0.1)
        assert sentence("pools/p", [devices]) == (
            "The number of devices limits pools/p: 95 % of 10 devices (9.458 devices allocated), and 2 devices more "
            "is waited for; it rises by 10.0 points an hour and is full in 0.5 h at that rate."
        )
        assert sentence("pools/p", [use("cpu_milli", 0.5)]).startswith("Nothing is short in pools/p: of processor time")
        assert sentence("projects/a", [use("cpu_milli", 0.5, capacity=0)]) == "projects/a has no limit of its own."

    def test_a_few_minutes_are_no_trend(self) -> None:
        times = np.arange(60, dtype=np.int64) * 10
        rising = np.arange(60, dtype=np.float64) * 10
        short = Use(
            resource="cpu_milli", capacity=1000, times=times, allocated=rising, used=rising, wanted=np.zeros(60)
        )
        assert short.trend_per_hour == 0.0
        assert "an hour" not in sentence("pools/p", [short])
        long = replace(short, times=times + times // 590 * 10)
        assert long.trend_per_hour > 0.0

    @given(st.floats(-1, 1), st.floats(0, 1), st.integers(2, 50))
    def test_a_lines_slope_is_found(self, slope: float, start: float, count: int) -> None:
        times = np.arange(count) * 60
        assert slope_per_hour(times, start + slope * times / HOUR_S) == pytest.approx(slope, abs=1e-6)

    def test_one_point_has_no_slope(self) -> None:
        assert slope_per_hour(np.array([5]), np.array([1.0])) == 0.0


@pytest.fixture
async def clock() -> ManualClock:
    return ManualClock()


class _Measured:
    """Nodes that use what the test says."""

    def __init__(self) -> None:
        self.used: dict[str, tuple[float, float]] = {}

    def now(self) -> dict[str, tuple[float, float]]:
        return self.used


class _Fleet:
    """A ledger that shows one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.shown = snapshot

    def snapshot(self, _fence_s: float) -> Snapshot:
        return self.shown

    @property
    def pools(self) -> frozenset[str]:
        return self.shown.pools

    @property
    def nodes(self) -> dict[str, Any]:
        return {name: SimpleNamespace(value=value) for name, value in self.shown.nodes.items()}

    @property
    def queues(self) -> dict[str, Any]:
        return {name: SimpleNamespace(value=value) for name, value in self.shown.queues.items()}


async def test_a_node_may_go_while_a_sample_is_taken(clock: ManualClock) -> None:
    node = world.node("n1")
    nodes, held = {node.name: node}, dict([placed("projects/a/workloads/a", ("n1", 0))])
    fleet = _Fleet(Snapshot(pools=frozenset({"pools/p"}), nodes=nodes, assignments=held))
    utilization = Utilization(fleet, _Measured(), None, clock)  # type: ignore[arg-type]
    sampling = asyncio.create_task(utilization.sample())
    await asyncio.sleep(0)
    nodes.clear()  # as the ledger does under the snapshot's view of it
    await sampling
    answer = await utilization.get(pb.GetUtilizationRequest(name=node.name))
    assert [each.points[0].allocated for each in answer.series if each.resource == "device_milli"] == [1000]


async def test_an_hour_of_growth_is_answered_with_its_trend_and_bottleneck(clock: ManualClock) -> None:
    node = world.node("n1", 8, cpu_milli=100_000)
    queue = Queue(
        name="queues/q", projects=("projects/a",), quotas=(Quota(resource="device_milli", nominal=4000),)
    )  # fmt: skip
    fleet, measured = _Fleet(Snapshot()), _Measured()
    utilization = Utilization(fleet, measured, None, clock)  # type: ignore[arg-type]
    for at in range(361):
        held = dict(placed(f"projects/a/workloads/w{device}", ("n1", device)) for device in range(at // 46))
        waits = world.workload("projects/a/workloads/waits", world.group(4), state=State.PENDING)
        fleet.shown = Snapshot(
            pools=frozenset({"pools/p"}), nodes={node.name: node}, assignments=held, queues={queue.name: queue},
            workloads={waits.name: waits, **{name: world.workload(name, state=State.RUNNING) for name in held}},
        )  # fmt: skip
        measured.used[node.name] = (50_000.0, 1 << 30)
        await utilization.sample()
        await clock.advance(10)
    answer = await utilization.get(pb.GetUtilizationRequest(name="pools/p"))
    devices = next(each for each in answer.series if each.resource == "device_milli")
    assert (devices.capacity, len(devices.points)) == (8000, 359)
    assert (devices.points[-1].allocated, devices.points[-1].wanted) == (7000, 4000)
    assert devices.trend_per_hour == pytest.approx(1.0, rel=0.1)
    cpu = next(each for each in answer.series if each.resource == "cpu_milli")
    assert cpu.points[-1].used == 50_000
    assert answer.bottleneck == "device_milli"
    assert "devices limits pools/p: 88 % of 8 devices" in answer.message
    of_queue = await utilization.get(pb.GetUtilizationRequest(name="queues/q"))
    assert [(each.resource, each.capacity) for each in of_queue.series if each.capacity] == [("device_milli", 4000)]
    of_node = await utilization.get(pb.GetUtilizationRequest(name=node.name, step_s=600))
    assert len(of_node.series[0].points) == 7
    start = pb.GetUtilizationRequest(name="pools/p")
    start.start_time.FromDatetime(clock.now())
    await clock.advance(-1)
    with pytest.raises(InvalidArgument, match="start_time"):
        await utilization.get(start)


@pytest.fixture
async def asked(kv: MemoryKV) -> AsyncIterator[tuple[Replica, Any]]:
    replica = await start_replica(kv)
    await replica.create_pool()
    yield replica, PlanningServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/alice")))
    await replica.kill()


async def test_over_real_sessions_allocation_and_heartbeats_are_seen(asked: tuple[Replica, Any]) -> None:
    replica, alice = asked
    async with ScriptedAgent("pools/general/nodes/n1", cpu_used_milli=1500, memory_used_bytes=3 << 30) as agent:
        await replica.connect(agent)
        await replica.submit("job", workload(2, cpu_milli=500))
        await replica.submit("waits", workload(1))
        await replica.until_state("job", Workload.RUNNING)
        session = replica.scheduler.sessions.get(agent.node)
        assert session is not None
        await until(lambda: session.beat is not None)
        await replica.scheduler.utilization.sample()
        answers = {
            name: await alice.GetUtilization(pb.GetUtilizationRequest(name=name))
            for name in ("pools/general", agent.node, "projects/acme")
        }
        last = {name: {each.resource: each.points[-1] for each in answer.series} for name, answer in answers.items()}
        for name in answers:
            assert last[name]["device_milli"].allocated == 2000, name
            assert last[name]["cpu_milli"].used == 1500, name
        assert last["pools/general"]["device_milli"].wanted == last["projects/acme"]["device_milli"].wanted == 1000
        assert answers["pools/general"].bottleneck == "device_milli"


async def test_projects_are_shown_to_their_own_people_only(asked: tuple[Replica, Any]) -> None:
    replica, alice = asked
    await replica.submit("job", workload(1), project="other")
    await until(lambda: replica.scheduler.ledger.workloads)
    await replica.scheduler.utilization.sample()
    bob = PlanningServiceStub(await replica.stack.enter_async_context(replica.mesh.client("users/bob")))
    assert (await bob.GetUtilization(pb.GetUtilizationRequest(name="projects/other"))).series
    for name in ("projects/other", "projects/none", "pools/none", "queues/none", "pools/general/nodes/none"):
        with pytest.raises(NotFound):
            await alice.GetUtilization(pb.GetUtilizationRequest(name=name))
    trainer = PlanningServiceStub(await replica.channel("service/trainer"))
    with pytest.raises(NotFound):
        await trainer.GetUtilization(pb.GetUtilizationRequest(name="projects/other"))
    for name in ("", "pools/", "users/alice", "projects/other/workloads/job"):
        with pytest.raises(InvalidArgument):
            await alice.GetUtilization(pb.GetUtilizationRequest(name=name))


async def test_a_replica_knows_the_use_of_nodes_that_are_connected_to_another(kv: MemoryKV) -> None:
    first, second = await start_replica(kv), await start_replica(kv)
    await first.create_pool()
    async with ScriptedAgent("pools/general/nodes/n1", cpu_used_milli=1234, memory_used_bytes=1) as agent:
        await first.connect(agent)
        session = first.scheduler.sessions.get(agent.node)
        assert session is not None
        await until(lambda: session.beat is not None)
        measured = first.scheduler.measured
        await measured.tell()
        await until(lambda: second.scheduler.measured.now() == {agent.node: (1234.0, 1.0)})
    await asyncio.gather(first.kill(), second.kill())
