"""A fleet of values: carries out the planner's decisions without etcd, agents or time."""

from collections import defaultdict
from dataclasses import replace

from services.scheduler.lifecycle import CHECK_RETRY_S, ENDED, FINAL, may_follow
from services.scheduler.planner import Decision, Plan, plan
from services.scheduler.planner.budgets import pause_s
from services.scheduler.queue_values import Queue
from services.scheduler.snapshot import (
    Assignment,
    Check,
    CheckState,
    Demand,
    Device,
    Group,
    Kind,
    Node,
    Ran,
    Reason,
    Reservation,
    Slice,
    SliceState,
    Snapshot,
    State,
    Workload,
)

FENCE_S = 10.0


def node(
    name: str, devices: int = 8, *, pool: str = "pools/p", model: str = "", cpu_milli: int = 8000, **fields: object
) -> Node:
    """A node; its session is its name until it is changed."""
    full = f"{pool}/nodes/{name}"
    return Node(
        name=full,
        pool=pool,
        session=f"session of {name}",
        cpu_milli=cpu_milli,
        memory_bytes=1 << 40,
        devices=tuple(Device(index=at, model=model) for at in range(devices)),
        **fields,  # type: ignore[arg-type]
    )


def group(count: int, device_milli: int = 1000, *, most: int = 0, name: str = "worker", **demand: object) -> Group:
    """Slices that are alike."""
    wants = Demand(device_milli=device_milli, **demand)  # type: ignore[arg-type]
    return Group(name=name, min_count=count, max_count=max(most, count), demand=wants, program=b"1")


def workload(name: str, *groups: Group, kind: Kind = Kind.TRAINING, **fields: object) -> Workload:
    """A workload, waiting."""
    return Workload(name=name, kind=kind, groups=groups or (group(1),), **fields)  # type: ignore[arg-type]


class World:
    """What etcd would hold, and what the planner does to it."""

    def __init__(
        self,
        *nodes: Node,
        pools: tuple[str, ...] = ("pools/p",),
        queues: tuple[Queue, ...] = (),
        floating: dict[str, int] | None = None,
    ) -> None:
        self.now = 0.0
        self.pools = set(pools)
        self.nodes = {each.name: each for each in nodes}
        self.workloads: dict[str, Workload] = {}
        self.assignments: dict[str, dict[int, Assignment]] = defaultdict(dict)
        self.gone: dict[str, float] = {}
        self.queues = {each.name: each for each in queues}
        self.floating = floating or {}
        self.reservations: dict[str, Reservation] = {}
        self.done: set[tuple[str, int]] = set()  # tasks of arrays that have ended well

    def submit(self, *workloads: Workload) -> None:
        """New workloads, in this order."""
        for each in workloads:
            submitted = each.submitted or len(self.workloads) + 1
            self.workloads[each.name] = replace(each, submitted=submitted, waiting_since=self.now)

    def lose(self, name: str) -> None:
        """A node's key vanishes."""
        del self.nodes[name]
        self.gone[name] = self.now

    def restore(self, each: Node) -> None:
        """A node's key is there (again)."""
        self.nodes[each.name] = each
        self.gone.pop(each.name, None)

    def snapshot(self) -> Snapshot:
        """As the planner sees it."""
        return Snapshot(
            pools=frozenset(self.pools),
            nodes=dict(self.nodes),
            workloads={name: each for name, each in self.workloads.items() if each.state not in ENDED},
            assignments={
                name: tuple(each[generation] for generation in sorted(each))
                for name, each in self.assignments.items()
                if each
            },
            gone=dict(self.gone),
            fence_s=FENCE_S,
            queues=dict(self.queues),
            floating=dict(self.floating),
            reservations=dict(self.reservations),
        )

    def plan(self) -> Plan:
        """Plan once, and carry it out."""
        snapshot = self.snapshot()
        planned = plan(snapshot, self.now)
        assert planned == plan(snapshot, self.now), "equal snapshots must give equal plans"
        for decision in planned.decisions:
            self.carry_out(decision)
        for name in planned.dropped:
            del self.reservations[name]
        return planned

    def settle(self) -> None:
        """Plan until nothing changes."""
        for _ in range(20):
            if not self.plan().decisions:
                return
        raise AssertionError("the planner does not come to rest")

    def carry_out(self, decision: Decision) -> None:
        """What the leader does with a decision."""
        before = self.workloads[decision.workload]
        assert may_follow(before.state, decision.state)
        backoff = before.not_before
        if decision.restarts > before.restarts:
            backoff = self.now + pause_s(decision.failures, decision.restarts)
        if decision.reason is Reason.BACKING_OFF and any(each.state is CheckState.RETRY for each in before.checks):
            backoff = self.now + CHECK_RETRY_S
        has_begun_waiting = decision.state is State.PENDING and before.state is not State.PENDING
        self.workloads[decision.workload] = after = replace(
            before,
            state=decision.state,
            reason=decision.reason,
            message=decision.message,
            generation=decision.generation,
            restarts=decision.restarts,
            failures=decision.failures,
            slices=decision.slices,
            not_before=backoff,
            preemptions=decision.preemptions,
            granted=decision.granted,
            quota_reserved_at=(before.quota_reserved_at or self.now) if decision.has_quota else None,
            checks=tuple(Check(name=each.name) for each in before.checks) if decision.resets_checks else before.checks,
            assigned_at=self.now if decision.placement is not None else before.assigned_at,
            checkpoint_at=None
            if decision.placement is not None and not decision.placement.kept
            else before.checkpoint_at,
            waiting_since=self.now if has_begun_waiting else before.waiting_since,
        )
        if decision.drops_reservation:
            del self.reservations[decision.workload]
        if decision.reservation is not None:
            self.reservations[decision.workload] = decision.reservation
        generations = self.assignments[decision.workload]
        for revocation in decision.revoke:
            assert not generations[revocation.generation].revoked
            generations[revocation.generation] = replace(generations[revocation.generation], revoked=revocation.reason)
        for generation in decision.retire:
            following = generations.get(generation + 1)
            forgotten = generations.pop(generation)
            for each in forgotten.slices:
                if each.state not in FINAL and not (following and each.index in following.kept):
                    assert not self._may_run(forgotten, each), "it is forgotten while it may still run"
        if decision.tasks is not None:
            self._change_tasks(decision)
        if decision.placement is not None:
            assert decision.generation not in generations
            generations[decision.generation] = Assignment(
                workload=decision.workload,
                generation=decision.generation,
                pool=decision.placement.pool,
                slices=decision.placement.slices,
                sessions=dict(decision.placement.sessions),
                groups={each.name: Ran(demand=each.demand, program=each.program) for each in after.groups},
                kept=decision.placement.kept,
            )

    def _change_tasks(self, decision: Decision) -> None:
        """What the leader does with the tasks of an array."""
        tasks, generations = decision.tasks, self.assignments[decision.workload]
        assert tasks is not None
        self.workloads[decision.workload] = replace(self.workloads[decision.workload], array=tasks.array)
        base = generations.get(tasks.base)
        if base is None:
            assert not tasks.base or tasks.base in decision.retire
            return
        for each in base.slices:
            if each.index in tasks.dropped and each.state not in FINAL:
                assert not self._may_run(base, each), "a task is forgotten while it may still run"
        slices, sessions = tasks.live, dict(tasks.sessions)
        if base.revoked or decision.placement is not None:
            slices = tuple(each for each in base.slices if each.index not in tasks.dropped)
            sessions = dict(base.sessions)
        generations[tasks.base] = replace(base, slices=slices, sessions=sessions)

    def report(self, name: str, index: int, state: SliceState, generation: int | None = None, **facts: object) -> None:
        """An agent reports; what is final stays."""
        generation = generation or self.workloads[name].generation
        assignment = self.assignments[name][generation]
        is_live = any(each.index == index and each.state not in FINAL for each in assignment.slices)
        if self.workloads[name].array is not None and state is SliceState.SUCCEEDED and is_live:
            assert (name, index) not in self.done, f"task {index} of {name} runs again though it has ended well"
            self.done.add((name, index))
        self.assignments[name][generation] = replace(
            assignment,
            slices=tuple(
                replace(each, state=state, **facts)  # type: ignore[arg-type]
                if each.index == index and each.state not in FINAL
                else each
                for each in assignment.slices
            ),
        )

    def slices(self, name: str) -> tuple[Slice, ...]:
        """The slices of the present generation."""
        return self.assignments[name][self.workloads[name].generation].slices

    def state(self, name: str) -> tuple[State, Reason]:
        """Where a workload stands."""
        return self.workloads[name].state, self.workloads[name].reason

    def check(self) -> None:
        """What must hold whatever happens."""
        cpu: dict[str, int] = defaultdict(int)
        devices: dict[tuple[str, int], int] = defaultdict(int)
        for name, generations in self.assignments.items():
            self._check_gang(name, generations)
            for assignment, each in self._running(generations):
                demand = assignment.groups[each.group].demand
                cpu[each.node] += demand.cpu_milli
                wanted = max(1, demand.device_milli // 1000) if demand.device_milli else 0
                assert len(each.devices) == len(set(each.devices)) == wanted
                for index in each.devices:
                    devices[each.node, index] += min(demand.device_milli, 1000)
        assert all(used <= 1000 for used in devices.values()), f"a device is over-allocated: {dict(devices)}"
        assert all(used <= self.nodes[name].cpu_milli for name, used in cpu.items()), "a node is over-allocated"

    def _check_gang(self, name: str, generations: dict[int, Assignment]) -> None:
        workload_ = self.workloads[name]
        wanted = [each for each in generations.values() if not each.revoked]
        assert len(wanted) <= 1, "two generations are wanted"
        for assignment in generations.values():
            assert {each.node.partition("/nodes/")[0] for each in assignment.slices} <= {assignment.pool}
            if workload_.kind is Kind.TRAINING:
                for each in workload_.groups:
                    count = sum(slice_.group == each.name for slice_ in assignment.slices)
                    assert each.min_count <= count <= each.max_count, "a gang is not whole"
        if workload_.kind is Kind.TRAINING:
            live = [
                each.generation
                for each in generations.values()
                if any(slice_.state not in FINAL and self._may_run(each, slice_) for slice_ in each.slices)
            ]
            assert len(live) <= 1, f"generations {live} of {name} live together"

    def _running(self, generations: dict[int, Assignment]) -> list[tuple[Assignment, Slice]]:
        """The slices that are there now, each counted once: from the agents' point of view, not the planner's."""
        seen: dict[tuple[int, int], tuple[Assignment, Slice]] = {}
        for generation in sorted(generations):
            assignment = generations[generation]
            for each in assignment.slices:
                if each.index in assignment.kept:  # its agent has relabelled it
                    seen.pop((generation - 1, each.index), None)
                here = self.nodes.get(each.node)
                if each.state in FINAL or here is None or here.session != assignment.sessions[each.node]:
                    continue
                seen[generation, each.index] = (assignment, each)
        return list(seen.values())

    def _may_run(self, assignment: Assignment, each: Slice) -> bool:
        here = self.nodes.get(each.node)
        if here is None:
            return self.now < self.gone.get(each.node, self.now) + FENCE_S
        return here.session == assignment.sessions[each.node]
