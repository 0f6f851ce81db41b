"""The simulator: figures by hand, conservation of work, and a checker that does not believe it."""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner import Decision, Placement, Plan, Revocation, plan
from services.scheduler.queue_values import Policy, Queue
from services.scheduler.simulator import Costs, Job, Report, Restless, Scaling, Simulation, World, fleet, philly
from services.scheduler.simulator.cluster import OverAllocated
from services.scheduler.simulator.discipline import DISCIPLINES
from services.scheduler.simulator.meter import fair_shares, jain, stranded
from services.scheduler.simulator.progress import Progress
from services.scheduler.simulator.report import table
from services.scheduler.simulator.yardstick import las, measure, srsf, srtf
from services.scheduler.snapshot import Kind, Node, Slice, Snapshot, State
from tests.scheduler.world import group, node, workload

pytestmark = pytest.mark.exhaustive

_FIRST = fleet.nodes(1, 4, pool=philly.POOL)[0]
LEAVING: dict[str, Any] = {  # the first node goes and comes back, again and again
    "leaves": [(2000.0 * at, _FIRST.name) for at in range(1, 8)],
    "joins": [(2000.0 * at + 300.0, replace(_FIRST, session=f"again {at}")) for at in range(1, 8)],
}
FREE = Costs(start_s=0.0, restart_s=0.0, checkpoint_s=0.0, checkpoint_every_s=0.0)
TRACE = Path(os.environ.get("LEPTON_TEST_DATA", "")) / "philly" / "philly.csv"
needs_trace = pytest.mark.skipif(
    not os.environ.get("LEPTON_TEST_DATA") or not TRACE.exists(), reason="LEPTON_TEST_DATA has no philly/philly.csv"
)


def job(name: str, work_s: float, at: float = 0.0, *, project: str = "a", devices: int = 1, **fields: object) -> Job:
    """A gang of one slice."""
    scaling = fields.pop("scaling", Scaling())
    groups = fields.pop("groups", (group(1, 1000 * devices),))
    wanted = workload(f"projects/{project}/workloads/{name}", *groups, **fields)  # type: ignore[misc, arg-type]
    return Job(workload=wanted, at=at, work_s=work_s, scaling=scaling)  # type: ignore[arg-type]


def simulate(jobs: Sequence[Job], nodes: Sequence[Node] | None = None, **options: object) -> Simulation:
    """Run to the end, checked at every moment."""
    queues = options.pop("queues", {})
    options.setdefault("costs", FREE)
    options.setdefault("observer", check)
    simulation = Simulation(World(queues=queues), jobs, nodes or [node("n1", 1)], **options)  # type: ignore[arg-type]
    simulation.run()
    return simulation


def ends(simulation: Simulation) -> dict[str, float]:
    """When each job was done."""
    return {
        name.rpartition("/")[2]: each.ended_at
        for name, each in simulation.agents.progress.items()
        if each.ended_at is not None
    }


def check(simulation: Simulation, now: float) -> None:
    """Add up what the records say; nothing of the simulator's own accounting is used."""
    devices: Counter[tuple[str, int]] = Counter()
    cpu: Counter[str] = Counter()
    for generations in simulation.world.assignments.values():
        handed_over: frozenset[int] = frozenset()
        for assignment in sorted(generations, key=lambda each: -each.generation):
            for each in assignment.slices:
                here = simulation.world.nodes.get(each.node)
                if each.state in FINAL or each.index in handed_over or here is None:
                    continue
                if here.session != assignment.sessions[each.node]:
                    continue
                demand = assignment.groups[each.group].demand
                assert len(set(each.devices)) == -(-demand.device_milli // 1000)
                assert set(each.devices) <= {device.index for device in here.devices}
                cpu[each.node] += demand.cpu_milli
                for index in each.devices:
                    devices[each.node, index] += min(1000, demand.device_milli)
            handed_over = assignment.kept
    assert all(used <= 1000 for used in devices.values()), f"over-allocated at {now}"
    assert all(used <= simulation.world.nodes[name].cpu_milli for name, used in cpu.items()), f"over-allocated at {now}"
    assert sum(devices.values()) == simulation.cluster.used_milli


def rows(count: int = 400, seed: int = 7) -> tuple[philly.Row, ...]:
    return philly.generate(count, seed, span_s=count * 60.0, max_devices=16)


def replay(
    seed: int = 7, *, discipline: str = "", count: int = 400, load: float = 1.0, **options: object
) -> tuple[Simulation, Report]:
    """Made-up jobs on a fleet that has too little for them at times."""
    jobs = tuple(philly.jobs(rows(count, seed), per_node=4, knows_duration=True))
    machines = fleet.nodes(fleet.count_for(jobs, 4, load), 4, pool=philly.POOL)
    queues = {}
    if discipline:
        queues = dict(DISCIPLINES[discipline].queues((each.project for each in jobs), len(machines) * 4))
    options.setdefault("observer", check)
    world = World(pools=(philly.POOL,), queues=queues)
    simulation = Simulation(world, jobs, machines, **options)  # type: ignore[arg-type]
    simulation.run()
    return simulation, simulation.report(discipline)


FIVE = tuple(job(name, work_s) for name, work_s in zip("vwxyz", (10, 20, 15, 30, 25), strict=True))


def test_five_tasks_in_the_order_of_their_submission_wait_as_by_hand() -> None:
    jobs = [replace(each, workload=replace(each.workload, submitted=at + 1)) for at, each in enumerate(FIVE)]
    simulation = simulate(jobs)
    assert ends(simulation) == {"v": 10, "w": 30, "x": 45, "y": 75, "z": 100}
    report = simulation.report()
    assert report.mean_queueing_s == (0 + 10 + 30 + 45 + 75) / 5 == 32
    assert report.mean_jct_s == (10 + 30 + 45 + 75 + 100) / 5 == 52
    assert report.p50_jct_s == 45
    assert report.p99_jct_s == report.makespan_s == 100
    assert report.utilisation_pct == 100
    assert report.mean_queue == pytest.approx((4 * 10 + 3 * 20 + 2 * 15 + 1 * 30) / 100)
    assert report.contended_pct == 75


def test_five_tasks_shortest_first_wait_less_as_by_hand() -> None:
    queues = {"queues/default": Queue(name="queues/default", policy=Policy.SHORTEST_JOB_FIRST)}
    jobs = [replace(each, workload=replace(each.workload, expected_duration_s=each.work_s)) for each in FIVE]
    simulation = simulate(jobs, queues=queues)
    assert ends(simulation) == {"v": 10, "x": 25, "w": 45, "z": 70, "y": 100}
    report = simulation.report()
    assert report.mean_queueing_s == (0 + 10 + 25 + 45 + 70) / 5 == 30
    assert report.utilisation_pct == 100


def test_idle_devices_count_against_the_utilisation() -> None:
    report = simulate([job("j1", 10), job("j2", 10, at=30)], [node("n1", 2)]).report()
    assert report.makespan_s == 40
    assert report.utilisation_pct == 100 * 20 / (2 * 40)
    assert report.contended_pct == 0


@pytest.mark.parametrize("interval_s", [0.0, 60.0])
def test_every_job_ends_once_and_exactly_its_work_is_done(interval_s: float) -> None:
    simulation, report = replay(interval_s=interval_s, costs=FREE, count=200)
    assert report.finished == report.jobs == 200
    assert Counter(each.outcome for each in simulation.agents.progress.values()) == {State.SUCCEEDED: 200}
    assert not simulation.world.workloads
    assert not simulation.world.assignments
    assert simulation.cluster.used_milli == 0
    if not report.preemptions:
        work = sum(each.job.work_s * each.job.device_milli / 1000 for each in simulation.agents.progress.values())
        assert simulation.meter.busy == pytest.approx(work)
    for each in simulation.agents.progress.values():
        assert each.ended_at is not None
        assert each.started_at is not None
        assert each.ended_at - each.job.at == pytest.approx(each.waited_s + each.job.work_s + each.lost_s)


def conserves_work(simulation: Simulation) -> bool:
    """Whether each job has done exactly the work that it asked for, and again what it has lost."""
    progress = simulation.agents.progress.values()
    return all(each.done_s == pytest.approx(each.job.work_s + each.lost_s, rel=1e-6) for each in progress)


@pytest.mark.parametrize("discipline", ["cohort", "default"])
def test_work_is_neither_lost_nor_won_where_jobs_are_stopped_and_start_again(discipline: str) -> None:
    simulation, report = replay(
        1, discipline=discipline, count=250, load=1.4, interval_s=20.0, costs=Costs(checkpoint_every_s=600.0), **LEAVING
    )
    assert report.finished == report.jobs == 250
    assert report.lost_work_device_s > 0, "nothing was tried"
    assert discipline != "cohort" or report.preemptions > 0, "nothing was tried"
    assert conserves_work(simulation)
    lost = sum(each.lost_s * each.job.device_milli / 1000 for each in simulation.agents.progress.values())
    assert lost == pytest.approx(report.lost_work_device_s)


def test_work_that_is_lost_and_not_counted_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: Progress, now: float) -> None:
        self.advance(now)
        self.left_s = self.saved_s

    monkeypatch.setattr(Progress, "fall_back", forgetful)
    simulation, report = replay(1, count=250, load=1.4, interval_s=20.0, **LEAVING)
    assert report.finished == 250
    assert not conserves_work(simulation)


def test_jobs_survive_nodes_that_come_and_go_and_pay_for_it() -> None:
    machines = [node(f"n{at}", 2) for at in range(3)]
    jobs = [job(f"j{at:02}", 400.0, at=20.0 * at, groups=(group(1 + at % 3),)) for at in range(30)]
    leaves = [(100.0 * at, machines[at % 3].name) for at in range(1, 12)]
    joins = [(at + 45.0, replace(_node(machines, name), session=f"{name} {at}")) for at, name in leaves]
    simulation = simulate(jobs, machines, leaves=leaves, joins=joins, costs=Costs(checkpoint_every_s=60.0))
    report = simulation.report()
    assert report.finished == 30
    assert report.revocations.get("lost", 0) > 0
    assert report.preemptions == 0
    assert report.lost_work_device_s > 0
    assert all(each.lost_s <= 60.0 * len(each.revoked) for each in simulation.agents.progress.values())


def _node(machines: Sequence[Node], name: str) -> Node:
    return next(each for each in machines if each.name == name)


def test_a_gang_goes_on_from_its_last_checkpoint_when_its_node_is_lost() -> None:
    # 100 s are done when its node goes, 90 are safe; 10 s of fence, 30 s to start again, 210 s left.
    costs = Costs(restart_s=30.0, checkpoint_every_s=90.0)
    simulation = simulate(
        [job("j", 300.0)],
        [node("n1", 1)],
        leaves=[(100.0, node("n1").name)],
        joins=[(50.0, node("n2", 1))],
        costs=costs,
    )
    assert ends(simulation) == {"j": 100 + 10 + 30 + 210}
    report = simulation.report()
    assert report.revocations == {"lost": 1}
    assert report.lost_work_device_s == pytest.approx(10.0)


def test_the_same_seed_gives_the_same_report() -> None:
    first, again, other = (replay(seed, count=120)[1] for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("discipline", sorted(DISCIPLINES))
def test_every_discipline_ends_every_job(discipline: str) -> None:
    _, report = replay(5, discipline=discipline, count=150, interval_s=30.0)
    assert report.finished == report.jobs == 150
    assert 0 < report.utilisation_pct <= 100
    assert 0 < report.fairness_jain <= 1


@pytest.mark.exhaustive
def test_the_default_is_nearly_as_quick_as_the_shortest_first_and_fairer() -> None:
    mean, fairness = defaultdict[str, float](float), defaultdict[str, float](float)
    for seed in (1, 4):
        for discipline in ("fifo", "fair", "sjf", "default"):
            # Only some are told how long the jobs run.
            told = DISCIPLINES[discipline].knows_duration
            jobs = tuple(philly.jobs(rows(300, seed), per_node=4, knows_duration=told))
            machines = fleet.nodes(fleet.count_for(jobs, 4, 1.2), 4, pool=philly.POOL)
            queues = DISCIPLINES[discipline].queues((each.project for each in jobs), len(machines) * 4)
            simulation = Simulation(World(pools=(philly.POOL,), queues=queues), jobs, machines, interval_s=60.0)
            simulation.run()
            report = simulation.report(discipline)
            mean[discipline] += report.mean_jct_s
            fairness[discipline] += report.fairness_jain
    assert mean["default"] < 0.97 * mean["fair"] < 0.9 * mean["fifo"]
    assert mean["default"] < 1.15 * mean["sjf"]
    assert fairness["default"] > max(fairness["sjf"], fairness["fifo"])


def test_plans_are_an_interval_apart() -> None:
    seen: list[float] = []

    def watched(snapshot: Snapshot, now: float) -> Plan:
        seen.append(now)
        return plan(snapshot, now)

    replay(planner=watched, interval_s=30.0, count=100)
    assert min(after - before for before, after in itertools.pairwise(seen)) >= 30.0
    assert len(seen) < 2.1 * 100 + 10


def test_a_planner_that_places_twice_is_caught() -> None:
    def careless(snapshot: Snapshot, now: float) -> Plan:
        decisions = [_start(each.name, 1, "n1", (0,)) for each in snapshot.workloads.values() if not each.generation]
        return Plan(decisions=tuple(decisions))

    with pytest.raises(OverAllocated, match="device 0"):
        simulate([job("j1", 10), job("j2", 10)], planner=careless)


def test_a_planner_that_never_comes_to_rest_is_caught() -> None:
    def restless(snapshot: Snapshot, now: float) -> Plan:
        planned = plan(snapshot, now)
        again = [replace(each, retire=(99,)) for each in planned.decisions] or [
            Decision(workload=each.name, state=each.state, generation=each.generation, restarts=0, retire=(99,))
            for each in snapshot.workloads.values()
        ]
        return replace(planned, decisions=tuple(again))

    with pytest.raises(Restless, match="plans at"):
        simulate([job("j1", 10)], planner=restless)


def test_a_workload_that_can_never_run_is_reported_not_waited_for() -> None:
    with pytest.raises(Restless, match="never end"):
        simulate([job("j1", 10, devices=9)])


def _start(
    name: str, generation: int, where: str, *devices: tuple[int, ...], state: State = State.ASSIGNED
) -> Decision:
    slices = tuple(
        Slice(index=at, group="worker", node=node(where).name, devices=each) for at, each in enumerate(devices)
    )
    sessions = ((node(where).name, node(where).session),)
    placement = Placement(pool="pools/p", slices=slices, kept=frozenset(), sessions=sessions)
    return Decision(workload=name, state=state, generation=generation, restarts=0, slices=slices, placement=placement)


class Script:
    """A planner that stops its one job at a time and starts it anew with so many devices; else the production one."""

    def __init__(self, at: float, grace_s: float, count: int) -> None:
        self._at = at
        self._grace_s = grace_s
        self._count = count

    def __call__(self, snapshot: Snapshot, now: float) -> Plan:
        for name, each in snapshot.workloads.items():
            generations = snapshot.assignments.get(name, ())
            if not each.generation:
                return Plan(decisions=(_start(name, 1, "n1", (0,)),), wake_at=self._at)
            if now < self._at:
                return Plan(wake_at=self._at)
            if each.generation == 1 and generations and not generations[0].revoked:
                stop = Revocation(generation=1, reason="resized", grace_s=self._grace_s)
                return Plan(
                    decisions=(Decision(workload=name, state=each.state, generation=1, restarts=0, revoke=(stop,)),)
                )
            if each.generation == 1 and generations and all(one.state in FINAL for one in generations[0].slices):
                placed = _start(name, 2, "n1", *((at,) for at in range(self._count)))
                return Plan(decisions=(replace(placed, retire=(1,)),))
        return plan(snapshot, now)


@pytest.mark.parametrize(
    ("grace_s", "count", "end", "lost_s"),
    [
        # 40 of 100 s are done at 40; a checkpoint takes 5, the restart 30.
        (10.0, 1, 40 + 5 + 30 + 60, 0.0),
        # Too little grace to write one: back to that of 25 s.
        (1.0, 1, 40 + 30 + 75, 15.0),
        # Four devices for the 60 s that are left.
        (10.0, 4, 40 + 5 + 30 + 60 / 4, 0.0),
    ],
)
def test_a_gang_that_is_stopped_goes_on_with_what_was_safe_and_faster_on_more(
    grace_s: float, count: int, end: float, lost_s: float
) -> None:
    costs = Costs(restart_s=30.0, checkpoint_s=5.0, checkpoint_every_s=25.0)
    # The work is stated for the most slices: 25 s with four are 100 s with one.
    elastic = job("j", 25.0, groups=(group(1, most=4),))
    simulation = simulate([elastic], [node("n1", 4)], planner=Script(40.0, grace_s, count), costs=costs)
    assert ends(simulation)["j"] == pytest.approx(end)
    report = simulation.report()
    assert report.revocations == {"resized": 1}
    assert simulation.agents.progress[elastic.name].lost_s * 4 == pytest.approx(lost_s)


@pytest.mark.parametrize(("devices", "end"), [(1, 100.0), (2, 60.0), (4, 40.0)])
def test_an_elastic_job_is_as_fast_as_what_it_gets(devices: int, end: float) -> None:
    scaling = Scaling(serial=0.2)  # Amdahl: 1, 0.6 and 0.4 of the time with one
    elastic = job("j", 40.0, groups=(group(1, most=4),), scaling=scaling)
    assert ends(simulate([elastic], [node("n1", devices)])) == {"j": pytest.approx(end)}


def test_what_an_elastic_job_measures_is_shown_to_the_planner() -> None:
    seen: set[tuple[tuple[int, float], ...]] = set()

    def watched(snapshot: Snapshot, now: float) -> Plan:
        seen.update(each.throughput for each in snapshot.workloads.values())
        return plan(snapshot, now)

    scaling = Scaling(samples_per_s=50.0)
    simulate(
        [job("j", 40.0, groups=(group(1, most=4),), scaling=scaling), job("k", 1, at=5)],
        [node("n1", 2)],
        planner=watched,
    )
    assert any(slices == 2 and speed == pytest.approx(100.0) for curve in seen for slices, speed in curve)


def test_a_service_runs_until_its_owner_cancels_it() -> None:
    simulation = simulate([job("s", 500.0, kind=Kind.SERVING), job("j", 10.0, at=1.0)])
    assert ends(simulation) == {"s": 500.0, "j": 510.0}
    outcomes = {each.outcome for each in simulation.agents.progress.values()}
    assert outcomes == {State.CANCELLED, State.SUCCEEDED}


def test_use_is_remembered_and_halves() -> None:
    world = World()
    half_life_s = Queue(name="").half_life_s
    world.account({"projects/a": 0.5}, 1000.0)
    assert world.usage["projects/a"] == pytest.approx(500.0, rel=1e-3)
    world.account({}, 1000.0 + half_life_s)
    assert world.usage["projects/a"] == pytest.approx(250.0, rel=1e-3)


def test_shares_are_max_min_fair_by_weight() -> None:
    assert fair_shares({"a": 1, "b": 10, "c": 10}, 9, {}) == {"a": 1, "b": 4, "c": 4}
    assert fair_shares({"a": 10, "b": 10}, 9, {"a": 2}) == pytest.approx({"a": 6, "b": 3})
    assert fair_shares({"a": 1, "b": 2}, 9, {}) == {"a": 1, "b": 2}


def test_deprivation_is_what_a_project_lacks_of_its_share() -> None:
    # Two devices; a takes both for 10 s, b waits for one of them all the time.
    jobs = [job("j1", 10), job("j2", 10), job("j3", 10, at=0.5, project="b")]
    report = simulate(jobs, [node("n1", 2)]).report()
    assert report.deprived_pct == pytest.approx(100 * 9.5 / (2 * 9.5))
    assert report.fairness_jain == pytest.approx(0.5)


def test_free_devices_are_stranded_where_slices_do_not_fit() -> None:
    assert stranded({0: 3, 1: 2, 4: 1}, {1: 0.5, 2: 0.25, 8: 0.25}) == (6.0, 2 * 0.5 + 4 * 0.25)


def test_jains_index_by_hand() -> None:
    assert jain({"a": 1, "b": 1}) == 1.0
    assert jain({"a": 1, "b": 0}) == 0.5
    assert jain({}) == 1.0


def test_yardsticks_by_hand() -> None:
    two = [job("j1", 10), job("j2", 2, at=1)]
    found = measure("srtf", srtf, two, 1)
    assert (found.mean_jct_s, found.makespan_s, found.preemptions) == (7.0, 12.0, 1)
    # Four devices for 3 s are more service than one for 10: the orders differ.
    wide = [job("j1", 10), job("j2", 3, devices=4), job("j3", 10)]
    assert measure("srtf", srtf, wide, 4).mean_jct_s == pytest.approx((3 + 13 + 13) / 3)
    assert measure("srsf", srsf, wide, 4).mean_jct_s == pytest.approx((10 + 10 + 13) / 3)
    # A job falls behind once it has had 8 device-hours.
    long = [job("j1", 40000), job("j2", 100, at=30000)]
    assert measure("las", las, long, 1).mean_jct_s == pytest.approx((40100 + 100) / 2)


def test_nothing_beats_the_oracle_on_one_device() -> None:
    jobs = [replace(each, at=each.at / 50) for each in philly.jobs(rows(150), per_node=1, knows_duration=True)]
    single = [each for each in jobs if each.device_milli == 1000]
    oracle = measure("srtf", srtf, single, 1)
    simulation = Simulation(World(pools=(philly.POOL,)), single, fleet.nodes(1, 1, pool=philly.POOL), costs=FREE)
    simulation.run()
    report = simulation.report()
    assert oracle.jobs == report.finished
    assert 0 < oracle.mean_jct_s < report.mean_jct_s


def test_made_up_jobs_have_the_shape_of_the_trace() -> None:
    made = philly.generate(20_000, 1, span_s=1e6)
    assert made == philly.generate(20_000, 1, span_s=1e6)
    single = sum(row.devices == 1 for row in made) / len(made)
    assert single == pytest.approx(0.9317, abs=0.01)
    durations = sorted(row.duration_s for row in made)
    assert durations[10_000] == pytest.approx(1144, rel=0.15)
    assert durations[18_000] == pytest.approx(11_266, rel=0.15)
    assert made[0].at == 0 <= made[-1].at <= 1e6
    assert all(before.at <= after.at for before, after in itertools.pairwise(made))


def test_a_gang_is_cut_into_equal_slices_that_fit_a_node() -> None:
    shapes = {}
    for devices in (1, 4, 8, 12, 24, 128):
        made = philly.Row(at=0.0, duration_s=1.0, devices=devices, cluster="c")
        (each,) = philly.jobs([made], per_node=8, knows_duration=False)
        shapes[devices] = (each.reference, each.workload.groups[0].demand.device_milli // 1000)
    assert shapes == {1: (1, 1), 4: (1, 4), 8: (1, 8), 12: (3, 4), 24: (3, 8), 128: (16, 8)}


def test_the_trace_is_read_in_the_order_of_submission(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(
        "timestamp,duration,num_gpus,gpu_time,cluster\n"
        "2017-10-09 07:01:55,66.0,1,66.0,b\n"
        "2017-10-09 07:00:55,10.0,2,20.0,a\n"
    )
    first, second = philly.read(path)
    assert first == philly.Row(at=0.0, duration_s=10.0, devices=2, cluster="a")
    assert second.at == 60.0
    assert philly.read(path, 1) == (first,)


@needs_trace
def test_the_trace_itself_is_replayed() -> None:
    trace = philly.read(TRACE)
    assert len(trace) == 82_247
    jobs = tuple(philly.jobs(trace[30_000:30_600], per_node=8, knows_duration=False))
    machines = fleet.nodes(20, 8, pool=philly.POOL)
    simulation = Simulation(World(pools=(philly.POOL,)), jobs, machines, interval_s=60.0, observer=check, costs=FREE)
    simulation.run()
    report = simulation.report()
    assert report.finished == 600
    assert report.contended_pct > 0


def test_a_table_has_a_line_for_each_run() -> None:
    text = table(
        [{"policy": "fifo", "jobs": 12_345, "mean": 1234.5, "other": None}],
        {"policy": "p", "jobs": "n", "mean": "m", "other": "o"},
    )
    assert text.splitlines() == ["| p | n | m | o |", "|---|---|---|---|", "| fifo | 12,345 | 1,234 | - |"]


def test_counting_nodes_for_a_load() -> None:
    jobs = [job(f"j{at}", 100.0, at=at * 10.0) for at in range(11)]
    assert fleet.count_for(jobs, 2, 1.0) == 6  # 1,100 device-seconds in 100 s
    assert fleet.count_for([job("j", 1.0, devices=9)], 2, 1.0) == 5
    assert defaultdict(int, {each.pool: 1 for each in fleet.nodes(3, 2, pool="pools/x")}) == {"pools/x": 1}
