"""The simulation: events happen in the order of time, the production planner looks, and what it decides is done."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from services.scheduler.lifecycle import ENDED
from services.scheduler.planner import Decision, Memory, Plan, plan
from services.scheduler.simulator.agents import Agents
from services.scheduler.simulator.cluster import Cluster
from services.scheduler.simulator.costs import Costs
from services.scheduler.simulator.event import Agenda, Event, What
from services.scheduler.simulator.job import WHOLE, Job
from services.scheduler.simulator.meter import Meter, fair_shares, stranded
from services.scheduler.simulator.report import Report, report
from services.scheduler.simulator.world import World
from services.scheduler.snapshot import Node, Snapshot, State

Planner = Callable[[Snapshot, float], Plan]
Observer = Callable[["Simulation", float], None]

_RESTLESS: Final = 200  # plans at one moment, after which the planner is held to be in a loop
_LEAST_S: Final = 1e-3  # time goes on, whatever the planner asks for


class Restless(Exception):
    """The planner changes its mind for ever, or looks on while nothing can happen any more."""


class Simulation:
    """One fleet and its jobs, from the first event to the last."""

    def __init__(
        self,
        world: World,
        jobs: Iterable[Job],
        nodes: Iterable[Node] = (),
        *,
        costs: Costs | None = None,
        interval_s: float = 0.0,
        joins: Iterable[tuple[float, Node]] = (),
        leaves: Iterable[tuple[float, str]] = (),
        planner: Planner | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`interval_s`: the least time from one plan to the next, as the leader's debounce; 0 = plan at every event.

        `joins`, `leaves`: nodes that come and go, and when. `observer` is called after each moment. `planner`: another
        one than the production planner.
        """
        self.world = world
        self.cluster = Cluster()
        self.meter = Meter()
        self.cycles = 0
        self.decisions = 0
        self._agenda = Agenda()
        self.agents = Agents(world, self.cluster, self._agenda, costs or Costs())
        self._interval_s = interval_s
        self._planner = planner or remembering()
        self._observer = observer
        self._plan_at: float | None = None
        self._planned_at = float("-inf")
        self._demand: dict[str, float] = {}  # project -> devices that its live jobs want
        self._jobs = tuple(jobs)
        self._sizes = _sizes(self._jobs)
        for node in nodes:
            self._agenda.add(Event(at=0.0, what=What.JOIN, node=node))
        for at, node in joins:
            self._agenda.add(Event(at=at, what=What.JOIN, node=node))
        for at, name in leaves:
            self._agenda.add(Event(at=at, what=What.LEAVE, workload=name))
        for job in self._jobs:
            self._agenda.add(Event(at=job.at, what=What.SUBMIT, workload=job.name, job=job))

    def run(self, *, until: float = float("inf")) -> None:
        """Let everything happen, up to and including this time."""
        at_once, before = 0, None
        while (now := self._next_at()) is not None and now <= until:
            at_once = at_once + 1 if now == before else 0
            before = now
            if at_once > _RESTLESS:
                raise Restless(f"{at_once} plans at {now}: {sorted(self.world.workloads)[:3]} ..")
            changed = False
            while self._agenda.next_at == now:
                event = self._agenda.pop()
                if event.what is not What.CHECKPOINT:  # most events, and nothing that is measured changes
                    self._measure(now)
                changed |= self._happen(event, now)
            if changed:
                self._look_at(now)
            if self._plan_at is not None and self._plan_at <= now:
                self._measure(now)
                self._plan(now)
            if self._observer is not None:
                self._observer(self, now)
        if until == float("inf") and self.world.workloads:
            raise Restless(f"{len(self.world.workloads)} workloads never end: {sorted(self.world.workloads)[:3]} ..")

    def report(self, policy: str = "") -> Report:
        """What has been measured so far."""
        return report(
            policy,
            tuple(self.agents.progress.values()),
            self.meter,
            cycles=self.cycles,
            decisions=self.decisions,
        )

    def _next_at(self) -> float | None:
        return min((at for at in (self._agenda.next_at, self._plan_at) if at is not None), default=None)

    def _happen(self, event: Event, now: float) -> bool:
        """Whether the planner should look."""
        if event.what is What.SUBMIT and event.job is not None:
            self._want(event.job, 1)
            self.agents.submit(event.job, now)
            return True
        if event.what is What.JOIN and event.node is not None:
            self.world.join(event.node)
            self.cluster.join(event.node)
            return True
        if event.what is What.LEAVE:
            self.agents.lose(event.workload, now)
            return True
        return self.agents.happen(event, now)

    def _look_at(self, now: float) -> None:
        """Plan as soon as the interval allows."""
        at = max(now, self._planned_at + self._interval_s)
        self._plan_at = at if self._plan_at is None else min(at, self._plan_at)

    def _plan(self, now: float) -> None:
        self._plan_at = None
        self._planned_at = now
        if self.cluster.capacity_milli:
            capacity = self.cluster.capacity_milli
            self.world.account({name: milli / capacity for name, milli in self.cluster.by_project.items()}, now)
        planned = self._planner(self.world.snapshot(), now)
        self.cycles += 1
        self.decisions += len(planned.decisions)
        # No list comprehension: every decision must be carried out, whether it asks for another look or not.
        again = False
        for name in planned.dropped:
            self.world.reservations.pop(name, None)
        for decision in planned.decisions:
            again |= self._carry_out(decision, now)
        if again:
            self._look_at(now)
        if planned.wake_at is not None:
            at = max(planned.wake_at, now + max(self._interval_s, _LEAST_S))
            self._plan_at = at if self._plan_at is None else min(at, self._plan_at)

    def _carry_out(self, decision: Decision, now: float) -> bool:
        """Whether the next plan would say more: its own placements and its reasons do not change its mind."""
        before = self.world.workloads[decision.workload]
        self.agents.carry_out(decision, now)
        if decision.state in ENDED:
            self._want(self.agents.progress[decision.workload].job, -1)
            return True
        return bool(decision.revoke or decision.retire or (decision.state is State.PENDING is not before.state))

    def _want(self, job: Job, sign: int) -> None:
        wants = self._demand.get(job.project, 0.0) + sign * job.device_milli / WHOLE
        self._demand[job.project] = wants

    def _measure(self, now: float) -> None:
        """Count the time since the last moment, with what has held since then."""
        if now <= self.meter.since:
            return
        free, unfit = stranded(self.cluster.free_levels, self._sizes)
        waiting = self.agents.waiting
        capacity = self.cluster.capacity_milli / WHOLE
        use = {project: milli / WHOLE for project, milli in self.cluster.by_project.items()}
        self.meter.advance(
            now,
            used=self.cluster.used_milli / WHOLE,
            capacity=capacity,
            waiting=waiting,
            free=free,
            stranded=unfit,
            shares=fair_shares(self._demand, capacity, {}) if waiting else {},
            use=use,
        )


def remembering() -> Planner:
    """The production planner with a memory of its own, as the leader has it."""
    return partial(plan, memory=Memory())


def _sizes(jobs: Iterable[Job]) -> dict[int, float]:
    """How likely a slice of each size is, in whole devices, counted by slices."""
    counts: dict[int, int] = {}
    for job in jobs:
        for group in job.workload.groups:
            size = -(-group.demand.device_milli // WHOLE)
            counts[size] = counts.get(size, 0) + group.max_count
    total = sum(counts.values())
    return {size: count / total for size, count in sorted(counts.items())}
