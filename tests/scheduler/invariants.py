"""What must hold of every plan, whatever the history: reckoned up here anew, from the values alone."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner import Decision, Plan
from services.scheduler.planner.verdict import PREEMPTED, RESIZED
from services.scheduler.queue_values import Policy, Queue
from services.scheduler.snapshot import Assignment, Demand, Kind, Reason, Slice, Snapshot, State, Workload

Planner: TypeAlias = Callable[[Snapshot, float], Plan]
Cell: TypeAlias = tuple[str, str]  # a pool, or "" for all; a resource
AMOUNTS: Final = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")
SETTLED_S: Final = 300.0
COOLED_S: Final = 60.0
MIN_RUNTIME_S: Final = 60.0  # of a workload in no queue
_ROOM: Final = frozenset({Reason.WAITING_FOR_CAPACITY, Reason.FRAGMENTED, Reason.TOPOLOGY_PLACEMENT_FAILED})


def held(snapshot: Snapshot) -> Iterator[tuple[Assignment, Slice]]:
    """Every slice that an agent may be running now, once."""
    for generations in snapshot.assignments.values():
        newer: frozenset[int] = frozenset()
        for assignment in reversed(generations):
            for each in assignment.slices:
                node = snapshot.nodes.get(each.node)
                is_here = node is not None and node.session == assignment.sessions.get(each.node)
                if is_here and each.state not in FINAL and each.index not in newer:
                    yield assignment, each
            newer = assignment.kept


def check_capacity(snapshot: Snapshot) -> None:
    """No node holds more than it has, no device more than all of itself, and no share is on two devices."""
    amounts: dict[tuple[str, str], int] = defaultdict(int)
    devices: dict[tuple[str, int], int] = defaultdict(int)
    for assignment, each in held(snapshot):
        demand = assignment.groups[each.group].demand
        for name in AMOUNTS:
            amounts[each.node, name] += getattr(demand, name)
        wanted = max(1, demand.device_milli // 1000) if demand.device_milli else 0
        assert len(set(each.devices)) == len(each.devices) == wanted, f"devices: {each} has not those that it asks for"
        assert {*each.devices} <= {one.index for one in snapshot.nodes[each.node].devices}, f"devices: {each}"
        for index in each.devices:
            devices[each.node, index] += min(demand.device_milli, 1000)
    over = [each for each, used in devices.items() if used > 1000]
    over += [each for each, used in amounts.items() if used > getattr(snapshot.nodes[each[0]], each[1])]  # type: ignore[misc]
    assert not over, f"over-allocated: {over}"


def check_gangs(snapshot: Snapshot) -> None:
    """A gang has all of its slices, in one pool and near to each other; no two generations of it live together."""
    for name, generations in snapshot.assignments.items():
        workload = snapshot.workloads.get(name)
        if workload is None:
            continue
        assert sum(not each.revoked for each in generations) <= 1, f"two generations of {name} are wanted"
        for assignment in generations:
            pools = {each.node.partition("/nodes/")[0] for each in assignment.slices}
            assert pools <= {assignment.pool}, f"{name} is in {pools}"
            if workload.kind is Kind.TRAINING:
                for group in workload.groups:
                    count = sum(each.group == group.name for each in assignment.slices)
                    assert group.min_count <= count <= group.max_count, f"not whole: {name} has {count} slices"
        living = {assignment.generation for assignment, _ in held(replace(snapshot, assignments={name: generations}))}
        assert workload.kind is not Kind.TRAINING or len(living) <= 1, f"generations {living} of {name} live together"


def check_where(snapshot: Snapshot, decision: Decision) -> None:
    """What is placed is on nodes that may be used for it, near enough to each other."""
    workload, placement = snapshot.workloads[decision.workload], decision.placement
    placed = [each for each in placement.slices if each.index not in placement.kept] if placement else []
    if placement is None and decision.tasks is not None:
        placed = [each for each in decision.tasks.live if each.index in decision.tasks.added]
    for each in placed:
        node = snapshot.nodes[each.node]
        assert node.is_schedulable, f"misplaced: {node.name} takes nothing"
        assert all(node.labels.get(key) == value for key, value in workload.selector), f"misplaced: {each}"
        tolerated = {one.key for one in workload.tolerations}
        assert all(taint.key in tolerated for taint in node.taints), f"misplaced: {each} on a tainted node"
        assert not workload.pools or node.pool in workload.pools, f"misplaced: {each} in {node.pool}"
        models = workload.groups[0].demand.device_models
        found = {device.model for device in node.devices if device.index in each.devices}
        assert not models or found <= models, f"misplaced: {each} on {found}"
    if placement is not None and workload.topology is not None and workload.topology.is_required:
        level = workload.topology.level
        places = {
            each.node if level == "host" else snapshot.nodes[each.node].labels.get(level)
            for each in placement.slices
            if each.node in snapshot.nodes
        }
        assert workload.kind is not Kind.TRAINING or len(places) == 1, f"misplaced: {workload.name} is in {places}"


def check_quotas(snapshot: Snapshot) -> None:
    """No queue uses more than is its own, what others lend it, and no more of that than it may borrow."""
    uses: dict[str, dict[Cell, int]] = defaultdict(lambda: defaultdict(int))
    by_project: dict[tuple[str, str], dict[Cell, int]] = defaultdict(lambda: defaultdict(int))
    for assignment, each in held(snapshot):
        queue = _queue_of(assignment.workload, snapshot)
        demand = assignment.groups[each.group].demand
        for resource in (*AMOUNTS, "device_milli"):
            for pool in (assignment.pool, ""):
                uses[queue][pool, resource] += getattr(demand, resource)
                project = assignment.workload.partition("/workloads/")[0]
                for above in _upwards(queue, snapshot):
                    by_project[above.name, project][pool, resource] += getattr(demand, resource)
    cells = {(quota.pool, quota.resource) for each in snapshot.queues.values() for quota in each.quotas}
    for cell in cells:
        for root in (each.name for each in snapshot.queues.values() if not each.parent):
            _check_cell(root, cell, uses, snapshot.queues)
    for (queue, project), use in by_project.items():
        for limit in snapshot.queues[queue].project_limits:
            assert use[limit.pool, limit.resource] <= limit.nominal, f"quota: {project} in {queue} uses {dict(use)}"


def _upwards(queue: str, snapshot: Snapshot) -> Iterator[Queue]:
    while queue in snapshot.queues:
        yield snapshot.queues[queue]
        queue = snapshot.queues[queue].parent


def _check_cell(
    name: str, cell: Cell, uses: Mapping[str, Mapping[Cell, int]], queues: Mapping[str, Queue], is_bound: bool = False
) -> tuple[int, int]:
    """What a queue and those below it have, less what they do not lend; and what they use of what is above them."""
    queue = queues[name]
    quota = next((each for each in queue.quotas if (each.pool, each.resource) == cell), None)
    is_bound = is_bound or quota is not None
    mine, used = quota.nominal if quota else 0, uses[name].get(cell, 0) if is_bound else 0
    for each in queues.values():
        if each.parent == name:
            lent, passed = _check_cell(each.name, cell, uses, queues, is_bound)
            mine, used = mine + lent, used + passed
    if not is_bound:
        return mine, used
    if not queue.parent:
        assert used <= mine, f"quota: {name} uses {used} of {mine} {cell}"
    limit = quota.borrowing_limit if quota else None
    assert limit is None or not queue.parent or used <= mine + limit, f"quota: {name} borrows {used - mine} of {limit}"
    kept = max(0, mine - quota.lending_limit) if quota and quota.lending_limit is not None else 0
    return mine - kept, max(0, used - kept)


def check_floating(snapshot: Snapshot) -> None:
    """Of no floating resource more is held than there is."""
    used: dict[str, int] = defaultdict(int)
    for name in {assignment.workload for assignment, _ in held(snapshot)} & snapshot.workloads.keys():
        for resource, amount in snapshot.workloads[name].floating:
            used[resource] += amount
    over = {each: amount for each, amount in used.items() if amount > snapshot.floating.get(each, 0)}
    assert not over, f"floating resources over-allocated: {over}"


def check_tasks(snapshot: Snapshot, now: float) -> None:
    """No task of an array is in two places, no more are placed than may be, and each is counted once."""
    for name, workload in snapshot.workloads.items():
        array = workload.array
        if array is None:
            continue
        placed: list[int] = []
        live = 0
        newer: frozenset[int] = frozenset()
        for assignment in reversed(snapshot.assignments.get(name, ())):
            here = [each for each in assignment.slices if each.index not in newer]
            placed += [each.index for each in here]
            live += sum(each.state not in FINAL and not _is_gone(each, assignment, snapshot, now) for each in here)
            newer = assignment.kept
        assert len(set(placed)) == len(placed), f"tasks of {name} are in two places: {sorted(placed)}"
        assert live <= workload.groups[0].max_count, f"{live} tasks of {name} run at once"
        back = {each.position for each in array.returned}
        counted = array.succeeded + array.failed + len(back | set(placed))
        assert counted == array.placed, f"{name} counts {counted} of {array.placed} that were placed: {array} {placed}"
        assert all(at < array.placed for at in (*back, *placed)), f"{name} has placed one that it does not count"


def _is_gone(each: Slice, assignment: Assignment, snapshot: Snapshot, now: float) -> bool:
    node = snapshot.nodes.get(each.node)
    if node is None:
        return now >= snapshot.gone.get(each.node, now) + snapshot.fence_s
    return node.session != assignment.sessions.get(each.node)


def check_evictions(snapshot: Snapshot, planned: Plan, now: float) -> None:
    """Whoever is stopped for another is stopped in one transaction with what is reserved for that one, and for that."""
    decisions = {each.workload: each for each in planned.decisions}
    for each in planned.decisions:
        for revocation in each.revoke:
            if revocation.reason not in (PREEMPTED, RESIZED) or not _is_for_another(each):
                continue
            claim = decisions.get(each.together)
            assert claim is not None, f"no placement for {each.together}, for which {each.workload} is stopped"
            assert claim.reservation is not None, f"no placement is reserved for {each.together}"
            victims = claim.reservation.victims
            assert (each.workload, revocation.generation) in victims, f"{each.workload} is no victim of {victims}"
            claimant, victim = snapshot.workloads[each.together], snapshot.workloads[each.workload]
            _check_rights(claimant, victim, revocation.reason == PREEMPTED, snapshot, now)
        if each.reservation is not None:
            _check_reservation(snapshot, planned, each)
        if each.placement is not None and each.placement.kept and each.together:
            _check_floor(snapshot.workloads[each.workload], each.placement.slices)


def _is_for_another(decision: Decision) -> bool:
    return bool(decision.together) and decision.together != decision.workload


def _check_rights(claim: Workload, victim: Workload, is_whole: bool, snapshot: Snapshot, now: float) -> None:
    assert victim.is_preemptible, f"{victim.name} may not be preempted"
    queue = snapshot.queues.get(_queue_of(victim.name, snapshot))
    least = queue.min_runtime_s if queue else MIN_RUNTIME_S
    ran = now - (victim.assigned_at or 0.0)
    assert ran >= least, f"least runtime: {victim.name} ran for {ran} s only"
    is_other = _queue_of(claim.name, snapshot) != _queue_of(victim.name, snapshot)
    is_below = victim.priority < claim.priority or (victim.priority == claim.priority and not is_whole)
    assert is_other or is_below, f"no right: {victim.name} has the priority {victim.priority}, {claim.name} less"


def _check_floor(workload: Workload, left: tuple[Slice, ...]) -> None:
    for group in workload.groups:
        count = sum(each.group == group.name for each in left)
        assert count >= group.min_count, f"floor: {workload.name} is trimmed to {count} of {group.min_count}"


def _check_reservation(snapshot: Snapshot, planned: Plan, decision: Decision) -> None:
    """What is reserved fits on what is free once the victims are gone, and is all that the workload needs."""
    reservation = decision.reservation
    assert reservation is not None
    for group in snapshot.workloads[decision.workload].groups:
        count = sum(each.group == group.name for each in reservation.slices)
        assert count >= group.min_count, f"no placement: {count} of {group.min_count} slices of {decision.workload}"
    gone = set(reservation.victims)
    amounts: dict[tuple[str, str], int] = defaultdict(int)
    devices: dict[tuple[str, int], int] = defaultdict(int)
    stays = {each.workload: each.placement for each in planned.decisions if each.placement is not None}
    for assignment, each in held(snapshot):
        is_kept = assignment.workload in stays and each.index in stays[assignment.workload].kept
        if (assignment.workload, assignment.generation) not in gone or is_kept:
            _load(amounts, devices, each, assignment.groups[each.group].demand)
    for one in planned.decisions:
        for each in one.placement.slices if one.placement else ():
            if each.index not in one.placement.kept:  # type: ignore[union-attr]
                _load(amounts, devices, each, _demand(snapshot.workloads[one.workload], each.group))
        victims = one.reservation.victims if one.reservation and one.together == reservation.workload else ()
        if one.reservation and (one is decision or (one.workload, one.generation) in victims):
            for each in one.reservation.slices:
                _load(amounts, devices, each, one.reservation.demands[each.group])
    lost = {each.node for each in reservation.slices} - snapshot.nodes.keys()
    assert not lost, f"no placement: {decision.workload} is to go to {lost}, which is not there"
    for (name, resource), used in amounts.items():
        if name not in snapshot.nodes:  # what was there may still run until the fence is over
            continue
        most = getattr(snapshot.nodes[name], resource)
        assert used <= most, f"no placement: {used} of {most} {resource} on {name} for {decision.workload}"
    over = [each for each, used in devices.items() if used > 1000]
    assert not over, f"no placement: {over} are not free for {decision.workload} when its victims are gone"


def _demand(workload: Workload, group: str) -> Demand:
    return next(each.demand for each in workload.groups if each.name == group)


def _load(
    amounts: dict[tuple[str, str], int], devices: dict[tuple[str, int], int], each: Slice, demand: Demand
) -> None:
    for name in AMOUNTS:
        amounts[each.node, name] += getattr(demand, name)
    for index in each.devices:
        devices[each.node, index] += min(demand.device_milli, 1000)


def check_minimal(before: Snapshot, after: Snapshot, planned: Plan, now: float, planner: Planner) -> None:
    """With any one victim back, all others gone, the one that they were stopped for has no place.

    `after`: the snapshot once the plan is carried out.
    """
    for decision in planned.decisions:
        reservation = decision.reservation
        if reservation is None or decision.together != decision.workload:
            continue
        taken = [each for each in planned.decisions if each.together == decision.workload and each is not decision]
        for back in taken:
            trial = _with_one_back(before, after, decision.workload, {each.workload for each in taken}, back)
            names = [each.workload for each in taken]
            # What passes one that waits because it is over in time makes room without being asked to.
            has_place = all(
                _is_placed(decision.workload, planner(each, now))
                for each in (trial, _of_no_end(trial, decision.workload))
            )
            has_place = has_place and not _is_contested(trial, decision.workload, planner, now)
            assert not has_place, f"not minimal: {decision.workload} has room without {back.workload} of {names}"


def _is_placed(name: str, planned: Plan) -> bool:
    found = {each.workload: each for each in planned.decisions}.get(name)
    return found is not None and found.placement is not None


def _is_contested(trial: Snapshot, name: str, planner: Planner, now: float) -> bool:
    """Whether another that waits would have the room if this one did not ask for it.

    It may have been before this one when the plan was made: with slices gone its queue's share is another.
    """
    without = {other: each for other, each in trial.workloads.items() if other != name}
    placed = {each.workload for each in planner(trial, now).decisions if each.placement is not None}
    alone = planner(replace(trial, workloads=without), now)
    return any(each.placement is not None and each.workload not in placed for each in alone.decisions)


def _of_no_end(snapshot: Snapshot, name: str) -> Snapshot:
    """Nobody knows how long this one will run, so it may pass nobody."""
    unknown = replace(snapshot.workloads[name], expected_duration_s=0.0)
    return replace(snapshot, workloads={**snapshot.workloads, name: unknown})


def _with_one_back(before: Snapshot, after: Snapshot, claim: str, victims: set[str], back: Decision) -> Snapshot:
    """All that were stopped for it have gone, but for one slice, or all, of one of them. Nobody can be stopped."""
    reservations = {name: each for name, each in after.reservations.items() if name not in victims | {claim}}
    others = {victim for each in reservations.values() for victim in each.victims}
    assignments: dict[str, tuple[Assignment, ...]] = {}
    for name, generations in after.assignments.items():
        left: list[Assignment] = []
        for each in generations:
            keeps = _kept_of(name, after) if name in victims else set()
            if not each.revoked or (name, each.generation) in others:
                left.append(each)
            elif name == back.workload and any(each.generation == one.generation for one in back.revoke):
                keeps = _kept_by(back)
                living = [one for one in each.slices if one.state not in FINAL and one.node in after.nodes]
                gone = sorted(one.index for one in living if one.index not in keeps)
                left.append(_only(each, keeps | set(gone[-1:] if keeps else gone)))
                break  # if it was trimmed: instead of what was left of it
            elif keeps:
                left.append(_only(each, keeps))
        if left:
            assignments[name] = tuple(left)
    workloads = {name: replace(each, is_preemptible=False) for name, each in after.workloads.items()}
    workloads[claim] = replace(workloads[claim], quota_reserved_at=None)
    if workloads[claim].array is not None:  # it has asked for so many tasks at once
        count = len(after.reservations[claim].slices)
        together = replace(workloads[claim].groups[0], min_count=count, max_count=count)
        workloads[claim] = replace(workloads[claim], groups=(together,), array=None)
    began = before.workloads[back.workload].assigned_at
    workloads[back.workload] = replace(workloads[back.workload], assigned_at=began)
    return replace(after, workloads=workloads, assignments=assignments, reservations=reservations)


def _only(assignment: Assignment, indices: set[int]) -> Assignment:
    """As if these slices had never been told to stop, and the others had gone."""
    return replace(assignment, slices=tuple(each for each in assignment.slices if each.index in indices), revoked="")


def _kept_by(decision: Decision) -> set[int]:
    """The slices that a workload keeps, of its generation before; none, if all of it goes."""
    if decision.placement is not None:
        return set(decision.placement.kept)
    if decision.reservation is not None:  # a gang that is made smaller: so many of its slices
        return {each.index for each in decision.reservation.slices}
    return set()


def _kept_of(name: str, after: Snapshot) -> set[int]:
    reservation = after.reservations.get(name)
    return {each.index for each in reservation.slices} if reservation else set()


def check_order(snapshot: Snapshot, after: Snapshot, planned: Plan, now: float) -> None:
    """Of workloads that ask for the same in one queue none passes one of the same project that comes before it.

    In a strict queue nobody passes one that waits for room or quota.
    """
    started = {each.workload for each in planned.decisions if each.placement and not each.placement.kept}
    served = started | {each.workload for each in planned.decisions if each.reservation} | snapshot.reservations.keys()
    waiting = [
        each
        for each in snapshot.workloads.values()
        if each.state is State.PENDING
        and not each.is_held
        and each.not_before <= now
        and not each.checks
        and each.name not in snapshot.assignments
    ]
    for later in waiting:
        if later.name not in started or later.quota_reserved_at is not None or later.name in snapshot.reservations:
            continue
        queue = snapshot.queues.get(_queue_of(later.name, snapshot))
        for first in waiting:
            if first.name in served or not _is_before(first, later, queue, snapshot, now):
                continue
            assert _asks(first) != _asks(later), f"overtaken: {first.name} by {later.name}, which asks for the same"
            is_strict = queue is not None and queue.is_strict and queue.policy is not Policy.SHORTEST_JOB_FIRST
            waits = is_strict and after.workloads[first.name].reason in _ROOM
            assert not waits, f"overtaken: {first.name} by {later.name} in a strict queue"


def _is_before(first: Workload, later: Workload, queue: Queue | None, snapshot: Snapshot, now: float) -> bool:
    if _queue_of(first.name, snapshot) != _queue_of(later.name, snapshot):
        return False
    if first.name.partition("/workloads/")[0] != later.name.partition("/workloads/")[0]:
        return False
    if queue is not None and queue.policy is Policy.WEIGHTED_DYNAMIC:
        return False

    def level(each: Workload) -> int:
        steps = int((now - each.waiting_since) // queue.aging_s) if queue else 0
        return each.priority + steps

    is_fair = queue is not None and queue.policy is Policy.FAIR_SHARE
    if is_fair and level(first) == level(later) and first.expected_duration_s != later.expected_duration_s:
        return False  # the shortest first, where one that does not say counts as the median
    return (-level(first), first.submitted, first.name) < (-level(later), later.submitted, later.name)


def _asks(each: Workload) -> tuple[object, ...]:
    return (
        each.groups,
        each.kind,
        each.pools,
        each.selector,
        each.tolerations,
        each.topology,
        each.is_spread,
        each.floating,
        each.expected_duration_s,
        each.priority,
    )


def check_growth(snapshot: Snapshot, after: Snapshot, planned: Plan, now: float) -> None:
    """Nothing is resized for its own sake soon after it was placed, nor where somebody waits for room."""
    for each in planned.decisions:
        if each.together or not any(one.reason == RESIZED for one in each.revoke):
            continue
        before, placed = snapshot.assignments[each.workload][-1], snapshot.workloads[each.workload].assigned_at
        if each.granted and sum(count for _, count in each.granted) < len(before.slices):
            _check_surplus(snapshot, each, before, now)
            continue
        rest_s = COOLED_S if before.kept and len(before.kept) == len(before.slices) else 0.0
        if snapshot.workloads[each.workload].kind is Kind.TRAINING:
            rest_s = SETTLED_S
        assert placed is None or now >= placed + rest_s, f"flapping: {each.workload} after {now - placed} s"
        pool = before.pool
        for other in after.workloads.values() if not snapshot.queues else ():
            waits = other.state is State.PENDING and other.reason in _ROOM and not other.checks
            assert not waits or (other.pools and pool not in other.pools), f"{each.workload} grows, {other.name} waits"


def _check_surplus(snapshot: Snapshot, decision: Decision, before: Assignment, now: float) -> None:
    """A gang that gives up slices for nobody that waits does so for replicas that are missing, by the same rights."""
    victim, granted = snapshot.workloads[decision.workload], dict(decision.granted)
    for group in victim.groups:
        assert granted.get(group.name, 0) >= group.min_count, f"floor: {victim.name} goes on with {granted}"
    missing = [
        each
        for each in snapshot.workloads.values()
        if each.kind is Kind.SERVING
        and each.state in (State.ASSIGNED, State.RUNNING)
        and snapshot.assignments[each.name][-1].pool == before.pool
        and len(snapshot.assignments[each.name][-1].slices) < sum(group.max_count for group in each.groups)
    ]
    assert missing, f"no replica is missing for which {victim.name} gives up slices"
    for position, claim in enumerate(missing):
        try:
            _check_rights(claim, victim, is_whole=False, snapshot=snapshot, now=now)
        except AssertionError:
            if position + 1 == len(missing):
                raise
        else:
            return


def check_determinism(snapshot: Snapshot, planned: Plan, now: float, planner: Planner) -> None:
    """The order in which things are given changes nothing."""

    def turned(mapping: Mapping[str, object]) -> dict[str, object]:
        return dict(reversed(mapping.items()))  # type: ignore[call-overload]

    mirrored = replace(
        snapshot,
        **{
            name: turned(getattr(snapshot, name))
            for name in ("nodes", "workloads", "assignments", "gone", "queues", "floating", "reservations", "usage")
        },  # type: ignore[arg-type]
    )
    assert planner(mirrored, now) == planned, "not deterministic: the same snapshot, another plan"


def _queue_of(name: str, snapshot: Snapshot) -> str:
    workload = snapshot.workloads.get(name)
    if workload is not None and workload.queue:
        return workload.queue
    project = name.partition("/workloads/")[0]
    return min((each.name for each in snapshot.queues.values() if project in each.projects), default="")
