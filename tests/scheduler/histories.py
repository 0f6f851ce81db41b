"""Random histories of small fleets: what happens is drawn from a seed, the planner answers, every answer is checked."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from services.scheduler.failure_values import RestartRule, SliceFailure
from services.scheduler.lifecycle import FINAL, OVER
from services.scheduler.planner import plan
from services.scheduler.planner.verdict import PREEMPTED, RESIZED
from services.scheduler.queue_values import Policy, Queue, Quota, Stop
from services.scheduler.snapshot import (
    Assignment,
    Check,
    CheckState,
    Kind,
    Node,
    Reason,
    Slice,
    SliceState,
    State,
    Taint,
    TaskArray,
    Toleration,
    Topology,
    Workload,
)
from tests.scheduler import invariants
from tests.scheduler.invariants import Planner
from tests.scheduler.world import FENCE_S, World, group, node, workload

POOLS: Final = ("pools/p", "pools/q")
LICENCE: Final = "floatingResources/licence"
LONG_S: Final = 400.0  # beyond the least runtime, the backoffs, and the time for which nothing is resized
_REST_ROUNDS: Final = 12
RULES: Final = (
    RestartRule(failure_class="OOM_HOST", max_restarts=2, avoids_node=True),
    RestartRule(failure_class="HANG", avoids_node=True, backoff_s=1.0),
    RestartRule(failure_class="COMM_TIMEOUT", avoids_node=True),
    RestartRule(failure_class="USER_ERROR", stops_repeated=True),
    RestartRule(failure_class="NODE_LOST", avoids_node=True),
)
_KINDS: Final = (
    *("submit", "submit", "submit", "submit", "submit", "submit", "time", "time", "time", "lose", "return"),
    *("report", "report", "stopped", "stopped", "run", "run", "run", "cancel", "change", "change", "hold", "agree"),
)
_CROWDED: Final = ("submit", "submit", "submit", "run", "time")  # so that there is somebody to stop


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens; the number says to what, once it is known what there is."""

    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Story:
    """A fleet and what happens to it, as one seed gives it."""

    fleet: int
    events: tuple[Event, ...]
    has_arrays: bool = False

    @classmethod
    def of(cls, seed: int, *, has_arrays: bool = False) -> "Story":
        """The story of a seed; the same with arrays of tasks among the workloads."""
        rng = random.Random(seed)
        kinds = [*(_CROWDED if rng.random() < 0.6 else ()), *rng.choices(_KINDS, k=rng.randint(4, 12))]
        fleet, events = rng.getrandbits(32), tuple(Event(each, rng.getrandbits(32)) for each in kinds)
        return cls(fleet=fleet, events=events, has_arrays=has_arrays)


@dataclass(eq=False)
class History:
    """One story, told with a planner: raises AssertionError at the first thing that is wrong."""

    story: Story
    planner: Planner = plan
    world: World = field(init=False)
    evictions: list[tuple[str, str]] = field(default_factory=list)  # since the last event: for whom, who

    def __post_init__(self) -> None:
        rng = random.Random(self.story.fleet)
        nodes = [_node(rng, at) for at in range(rng.randint(1, 4))]
        self.known = {each.name: each for each in nodes}
        self.world = World(*nodes, pools=POOLS, queues=_queues(rng), floating={LICENCE: rng.randint(0, 2)})
        self.lives = 0

    def run(self) -> None:
        """Everything that happens, then quiet, then the end of all that runs."""
        for each in self.story.events:
            getattr(self, f"_{each.kind}")(random.Random(each.number))
            self.evictions.clear()
            self.plan()
        self._come_to_rest()
        self._let_all_end()

    def plan(self) -> bool:
        """Plan, check, carry out; whether anything was placed or stopped, or is looked at again at once."""
        world = self.world
        snapshot, now = world.snapshot(), world.now
        planned = self.planner(snapshot, now)
        for decision in planned.decisions:
            world.carry_out(decision)
            for revocation in decision.revoke:
                if revocation.reason == PREEMPTED:
                    self.evictions.append((decision.together, decision.workload))
                elif revocation.reason == RESIZED and decision.together:
                    assert decision.granted == () or dict(decision.granted), "a gang is held to what it keeps"
        for name in planned.dropped:
            world.reservations.pop(name, None)
        after = world.snapshot()
        for decision in planned.decisions:
            invariants.check_where(snapshot, decision)
        invariants.check_capacity(after)
        invariants.check_gangs(after)
        invariants.check_quotas(after)
        invariants.check_floating(after)
        invariants.check_tasks(after, now)
        invariants.check_evictions(snapshot, planned, now)
        invariants.check_order(snapshot, after, planned, now)
        invariants.check_growth(snapshot, after, planned, now)
        if any(each.revoke or each.reservation for each in planned.decisions):
            invariants.check_minimal(snapshot, after, planned, now, plan)
            invariants.check_determinism(snapshot, planned, now, self.planner)
        self.check_circles()
        again = Reason.PENDING_EVALUATION
        return any(each.placement or each.revoke or each.reason is again for each in planned.decisions)

    def check_circles(self) -> None:
        """Since the last event nobody was stopped by one that it has stopped, nor twice by the same."""
        for claimant, victim in self.evictions:
            assert (victim, claimant) not in self.evictions, f"A -> B -> A: {claimant} and {victim} stop each other"
        again = [each for each in self.evictions if self.evictions.count(each) > 1]
        assert not again, f"A -> B -> A: {again[:1]} again, though nothing has happened"

    # What happens.

    def _submit(self, rng: random.Random) -> None:
        count = len(self.world.workloads)
        if count < 9:
            for at in range(rng.choice([1, 1, 2, 3])):
                made = _workload(rng, f"projects/{rng.choice('ab')}/workloads/w{count + at}")
                self.world.submit(_array(rng, made) if self.story.has_arrays and rng.random() < 0.5 else made)

    def _time(self, rng: random.Random) -> None:
        self.world.now += rng.choice([1.0, FENCE_S, 61.0, 61.0, LONG_S, 4000.0])

    def _lose(self, rng: random.Random) -> None:
        if self.world.nodes:
            self.world.lose(rng.choice(sorted(self.world.nodes)))

    def _return(self, rng: random.Random) -> None:
        name = rng.choice(sorted(self.known))
        is_fenced = name not in self.world.nodes and self.world.now >= self.world.gone.get(name, 0.0) + FENCE_S
        if is_fenced or rng.random() < 0.5:
            self.lives += 1
            self.known[name] = replace(self.known[name], session=f"{name} {self.lives}")
        self.world.restore(self.known[name])

    def _report(self, rng: random.Random) -> None:
        live = self._live()
        if live:
            assignment, each = rng.choice(live)
            state = rng.choice([SliceState.RUNNING, SliceState.SUCCEEDED, SliceState.FAILED])
            facts = {"failure": _failure(rng)} if state is SliceState.FAILED else {}
            self.world.report(assignment.workload, each.index, state, assignment.generation, **facts)

    def _run(self, rng: random.Random) -> None:
        """Everything that was placed is up."""
        for assignment, each in self._live():
            if each.state is SliceState.ASSIGNED and not assignment.revoked:
                self.world.report(assignment.workload, each.index, SliceState.RUNNING, assignment.generation)

    def _stopped(self, rng: random.Random) -> None:
        """What was told to stop has stopped; sometimes only a part of it."""
        is_partial = rng.random() < 0.3
        for assignment, each in self._live():
            if assignment.revoked and not (is_partial and rng.random() < 0.5):
                self.world.report(assignment.workload, each.index, SliceState.STOPPED, assignment.generation)

    def _cancel(self, rng: random.Random) -> None:
        live = self._wanted()
        if live:
            name = rng.choice(live)
            self.world.workloads[name] = replace(self.world.workloads[name], state=State.CANCELLING)

    def _change(self, rng: random.Random) -> None:
        """Other numbers of replicas are wished for, or a checkpoint is committed."""
        names = self._wanted()
        if not names:
            return
        name = rng.choice(names)
        before = self.world.workloads[name]
        if before.kind is Kind.SERVING:
            count = rng.randint(1, 3)
            wanted = replace(before.groups[0], min_count=count, max_count=count + rng.randint(0, 1))
            self.world.workloads[name] = replace(before, groups=(wanted,))
        elif before.state is State.RUNNING:
            self.world.workloads[name] = replace(before, checkpoint_at=self.world.now, throughput=_curve(rng))

    def _hold(self, rng: random.Random) -> None:
        """A workload is put on hold or let go, or a queue is closed or opened."""
        queues = sorted(self.world.queues)
        if queues and rng.random() < 0.5:
            name = rng.choice(queues)
            stop = rng.choice([Stop.OPEN, Stop.OPEN, Stop.HOLD, Stop.HOLD_AND_DRAIN])
            self.world.queues[name] = replace(self.world.queues[name], stop=stop)
        elif names := self._wanted():
            name = rng.choice(names)
            self.world.workloads[name] = replace(self.world.workloads[name], is_held=rng.random() < 0.5)

    def _agree(self, rng: random.Random) -> None:
        """Admission checks speak."""
        states = [CheckState.READY, CheckState.READY, CheckState.RETRY]
        self._checks_say(rng.choice(states))

    def _checks_say(self, state: CheckState) -> None:
        for name in self._wanted():
            each = self.world.workloads[name]
            checks = tuple(replace(check, state=state) for check in each.checks if check.state is not state)
            if checks:
                self.world.workloads[name] = replace(each, checks=checks)

    # How it ends.

    def _come_to_rest(self) -> None:
        """Nothing happens any more, but what is told to stop stops, and time goes by: there is an end to changes."""
        world = self.world
        self._open()
        self.evictions.clear()
        for _ in range(_REST_ROUNDS):
            is_moving = False
            for _ in range(8):
                has_changed = self.plan()
                is_moving |= has_changed
                self._stopped(_Never())
                self._run(_Never())
                self._checks_say(CheckState.READY)
                if not has_changed:
                    break
            if not is_moving and not world.reservations:
                return
            world.now += LONG_S
        raise AssertionError("it does not come to rest")

    def _open(self) -> None:
        """Every node is there, every queue is open, nobody is on hold."""
        for name, each in self.world.queues.items():
            self.world.queues[name] = replace(each, stop=Stop.OPEN)
        for name in self._wanted():
            self.world.workloads[name] = replace(self.world.workloads[name], is_held=False)
        for name in sorted(self.known):
            if name not in self.world.nodes:
                self.known[name] = replace(self.known[name], session=f"{name} at last")
                self.world.restore(self.known[name])

    def _let_all_end(self) -> None:
        """What runs ends, round by round: whatever could start on an empty fleet has started at last."""
        world = self.world
        tasks = sum(each.array.count for each in world.workloads.values() if each.array is not None)
        for _ in range(3 * len(world.workloads) + 2 * tasks + 5):
            for name in self._wanted():
                each = world.workloads[name]
                if each.kind is Kind.SERVING and each.state is not State.PENDING:
                    world.workloads[name] = replace(each, state=State.CANCELLING)
            for assignment, one in self._live():
                state = SliceState.STOPPED if assignment.revoked else SliceState.SUCCEEDED
                world.report(assignment.workload, one.index, state, assignment.generation)
            self._checks_say(CheckState.READY)
            self.evictions.clear()
            self.plan()
            world.now += 1.0 if world.reservations else LONG_S
            if not world.snapshot().assignments and not world.reservations and not self.plan():
                break
        for name in self._wanted():
            assert not self._could_start(name), f"starved: {name} never starts: {world.workloads[name].message}"
        for each in world.workloads.values():
            if each.array is not None and each.state in (State.SUCCEEDED, State.FAILED):
                assert not each.array.left, f"{each.name} has ended before its tasks"
                ended_well = sum(name == each.name for name, _ in world.done)
                assert each.array.succeeded == ended_well, f"{each.name} counts {each.array} of {ended_well}"
                assert (each.state is State.FAILED) == bool(each.array.failed), f"{each.name} is {each.state.name}"

    def _could_start(self, name: str) -> bool:
        """Whether it gets a place where nobody else is, but for those that hold up its queue, if that is strict."""
        queue = self.world.queues.get(f"queues/{name.split('/')[1]}")
        if queue is not None and queue.is_strict:
            return all(self._fits_alone(each) for each in self._wanted() if each.split("/")[1] == name.split("/")[1])
        return self._fits_alone(name)

    def _fits_alone(self, name: str) -> bool:
        alone = replace(self.world.workloads[name], not_before=0.0, checks=(), quota_reserved_at=None)
        snapshot = replace(self.world.snapshot(), workloads={name: alone}, assignments={}, reservations={})
        return any(each.placement for each in plan(snapshot, self.world.now).decisions)

    def _wanted(self) -> list[str]:
        return [name for name, each in self.world.workloads.items() if each.state not in OVER]

    def _live(self) -> list[tuple[Assignment, Slice]]:
        """Slices whose agents can report."""
        found = []
        for generations in self.world.assignments.values():
            for assignment in generations.values():
                following = generations.get(assignment.generation + 1)
                for each in assignment.slices:
                    here = self.world.nodes.get(each.node)
                    if each.state in FINAL or here is None or here.session != assignment.sessions[each.node]:
                        continue
                    if following is None or each.index not in following.kept:
                        found.append((assignment, each))
        return found


class _Never(random.Random):
    """Says no whenever it is asked."""

    def random(self) -> float:
        return 1.0


def failure(story: Story, planner: Planner = plan) -> str | None:
    """What goes wrong, or None."""
    try:
        History(story, planner).run()
    except AssertionError as error:
        return str(error).partition("\n")[0] or "an assertion without words"
    return None


def shortened(story: Story, planner: Planner = plan) -> Story:
    """The story with every event left out without which it goes wrong as well."""
    at = 0
    while at < len(story.events):
        shorter = replace(story, events=story.events[:at] + story.events[at + 1 :])
        if failure(shorter, planner) is not None:
            story = shorter
        else:
            at += 1
    return story


def check_all(seeds: Iterable[int], *, has_arrays: bool = False) -> None:
    """Raise with the seed and the shortest story of the first history that goes wrong."""
    for seed in seeds:
        story = Story.of(seed, has_arrays=has_arrays)
        if failure(story) is not None:
            short = shortened(story)
            raise AssertionError(f"seed {seed}: {failure(short)}\n{short!r}")


def _node(rng: random.Random, at: int) -> Node:
    each = node(f"n{at}", rng.choice([1, 2, 4]), pool=rng.choices(POOLS, [3, 1])[0], model=rng.choice("AAB"))
    taints = (Taint(key="special"),) if rng.random() < 0.1 else ()
    return replace(each, labels={"rack": rng.choice("xy")}, taints=taints)


def _failure(rng: random.Random) -> SliceFailure:
    """What an agent makes of a failure; drawn aside, so that everything else is drawn as it would be without it."""
    aside = random.Random()
    aside.setstate(rng.getstate())
    return SliceFailure(
        failure_class=aside.choice(["USER_ERROR", "OOM_HOST", "COMM_TIMEOUT", "HANG"]),
        step=aside.randint(0, 2),
        noticed_s=aside.random(),
        suspects=(1,) if aside.random() < 0.3 else (),
    )


def _workload(rng: random.Random, name: str) -> Workload:
    count = rng.choice([1, 1, 1, 2, 2, 3, 4])
    wants = group(
        count,
        rng.choice([0, 250, 500, 1000, 1000, 1000, 1000, 2000]),
        most=count + rng.choice([0, 0, 0, 1, 3]),
        cpu_milli=rng.choice([0, 0, 1000, 3000]),
        device_models=frozenset("A" if rng.random() < 0.1 else ""),
    )
    is_rare = rng.random
    return workload(
        name,
        wants,
        kind=rng.choice([Kind.TRAINING, Kind.TRAINING, Kind.SERVING, Kind.BATCH]),
        priority=rng.choice([0, 0, 0, 1, 2]),
        pools=rng.choices([(), ("pools/p",), ("pools/q", "pools/p")], [5, 2, 1])[0],
        max_restarts=rng.choice([0, 1]),
        rules=RULES if name.endswith(("1", "4", "7")) else (),
        topology=Topology(level=rng.choice(["rack", "host"]), is_required=is_rare() < 0.7)
        if is_rare() < 0.15
        else None,
        selector=(("rack", "x"),) if is_rare() < 0.1 else (),
        tolerations=(Toleration(key="special"),) if is_rare() < 0.2 else (),
        floating=((LICENCE, 1),) if is_rare() < 0.15 else (),
        checks=(Check(name="budget"),) if is_rare() < 0.1 else (),
        is_held=is_rare() < 0.03,
        is_spread=is_rare() < 0.15,
        is_preemptible=is_rare() < 0.75,
        expected_duration_s=rng.choice([0.0, 60.0, 600.0]),
        throughput=_curve(rng),
    )


def _array(rng: random.Random, each: Workload) -> Workload:
    """The same as an array of tasks."""
    tasks = replace(each.groups[0], min_count=1, max_count=rng.choice([1, 2, 3, 8]))
    array = TaskArray(count=rng.choice([1, 2, 3, 5, 9]))
    return replace(each, kind=Kind.BATCH, groups=(tasks,), topology=None, throughput=(), array=array)


def _topology(rng: random.Random) -> Topology:
    return Topology(level=rng.choice(["rack", "host"]), is_required=rng.random() < 0.7)


def _curve(rng: random.Random) -> tuple[tuple[int, float], ...]:
    return rng.choice([(), ((1, 10.0), (2, 19.0)), ((1, 10.0), (2, 11.0))])


def _queues(rng: random.Random) -> tuple[Queue, ...]:
    if rng.random() < 0.4:
        return ()
    return (Queue(name="queues/root", quotas=_quotas(rng, 4)), *(_leaf(rng, each) for each in "ab"))


def _leaf(rng: random.Random, project: str) -> Queue:
    limits = (Quota(resource="device_milli", nominal=4000),) if rng.random() < 0.15 else ()
    return Queue(
        name=f"queues/{project}",
        parent="queues/root",
        projects=(f"projects/{project}",),
        quotas=_quotas(rng, 4),
        weight=rng.choice([1.0, 1.0, 2.0]),
        policy=rng.choice(list(Policy)),
        is_strict=rng.random() < 0.25,
        aging_s=rng.choice([300.0, 3600.0]),
        has_preemption=rng.random() < 0.85,
        project_limits=limits,
    )


def _quotas(rng: random.Random, most: int) -> tuple[Quota, ...]:
    if rng.random() < 0.25:
        return ()
    limits = (None, None, 0, 1000)
    return (
        Quota(
            resource="device_milli",
            nominal=1000 * rng.randint(0, most),
            pool=rng.choice(["", "", "pools/p"]),
            borrowing_limit=rng.choice(limits),
            lending_limit=rng.choice(limits),
        ),
    )
