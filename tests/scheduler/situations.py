"""Situations for the questions why and what if: small fleets at rest, by hand or at random."""

import random
from collections.abc import Mapping
from dataclasses import replace

from services.scheduler.explain.explanation import LOOKS
from services.scheduler.explain.rehearsal import Budget, rehearse
from services.scheduler.queue_values import Queue, Quota
from services.scheduler.snapshot import Kind, Node, Snapshot, State, Taint, Toleration, Topology, Workload
from tests.scheduler.world import World, group, node, workload

POOLS = ("pools/p", "pools/q")
RACK = "rack"
LICENCE = "floatingResources/licence"
NOW = 1000.0


def budget() -> Budget:
    """As much as one question may cost."""
    return Budget(LOOKS)


def at_rest(
    nodes: tuple[Node, ...],
    *workloads: Workload,
    queues: tuple[Queue, ...] = (),
    floating: Mapping[str, int] | None = None,
    pools: tuple[str, ...] = ("pools/p",),
    now: float = NOW,
) -> Snapshot:
    """The fleet once the planner has done what it can; workloads are submitted in this order."""
    world = World(*nodes, pools=pools)
    world.submit(*workloads)
    snapshot = replace(world.snapshot(), queues={each.name: each for each in queues}, floating=floating or {})
    return rehearse(snapshot, now, budget()).snapshot


def situation(seed: int) -> tuple[Snapshot, str]:
    """A random fleet at rest, and a workload that waits in it."""
    rng = random.Random(seed)
    while True:
        snapshot = _fleet(rng)
        waiting = sorted(name for name, each in snapshot.workloads.items() if each.state is State.PENDING)
        if waiting:
            return snapshot, rng.choice(waiting)


def _fleet(rng: random.Random) -> Snapshot:
    nodes = tuple(_node(rng, at) for at in range(rng.randint(1, 6)))
    workloads = [_workload(rng, f"projects/{rng.choice('ab')}/workloads/w{at}") for at in range(rng.randint(3, 14))]
    licences = {LICENCE: rng.randint(0, 3)}
    return at_rest(nodes, *workloads, queues=_queues(rng), floating=licences, pools=POOLS)


def _node(rng: random.Random, at: int) -> Node:
    one = node(f"n{at}", rng.choice([1, 2, 4, 8]), pool=rng.choice(POOLS), model=rng.choice("AAB"))
    taints = (Taint(key="special"),) if rng.random() < 0.15 else ()
    return replace(one, labels={RACK: rng.choice("xyz")}, taints=taints, is_schedulable=rng.random() < 0.93)


def _workload(rng: random.Random, name: str) -> Workload:
    groups = []
    for at in range(rng.choice([1, 1, 1, 2])):
        count = rng.choice([1, 1, 2, 3, 4, 8])
        groups.append(
            group(
                count,
                rng.choice([0, 250, 500, 1000, 1000, 1000, 2000, 4000]),
                most=count + rng.choice([0, 0, 2]),
                name=f"g{at}",
                cpu_milli=rng.choice([0, 500, 1000, 4000, 9000 if rng.random() < 0.3 else 2000]),
                memory_bytes=rng.choice([0, 1 << 30]),
                device_models=frozenset(rng.choices([(), ("A",), ("C",)], [8, 2, 0.4])[0]),
            )
        )
    return workload(
        name,
        *groups,
        kind=rng.choice(list(Kind)),
        priority=rng.choice([0, 0, 0, 1, -1]),
        pools=rng.choices([(), ("pools/p",), ("pools/q", "pools/p"), ("pools/none",)], [4, 2, 2, 0.4])[0],
        topology=rng.choice([None, None, None, Topology(level=RACK), Topology(level="host")]),
        selector=rng.choice([(), (), (), ((RACK, "x"),)]),
        tolerations=rng.choice([(), (), (Toleration(key="special"),)]),
        floating=rng.choice([(), (), (), ((LICENCE, 1),)]),
        is_held=rng.random() < 0.05,
        is_spread=rng.random() < 0.2,
        is_preemptible=rng.random() < 0.7,
        expected_duration_s=rng.choice([0.0, 60.0, 600.0]),
    )


def _queues(rng: random.Random) -> tuple[Queue, ...]:
    if rng.random() < 0.4:
        return ()
    leaves = [
        Queue(
            name=f"queues/{project}",
            parent="queues/root",
            projects=(f"projects/{project}",),
            quotas=_quotas(rng, 4),
            is_strict=rng.random() < 0.15,
        )
        for project in "ab"
    ]
    return (Queue(name="queues/root", quotas=_quotas(rng, 8)), *leaves)


def _quotas(rng: random.Random, most: int) -> tuple[Quota, ...]:
    quotas = []
    if rng.random() < 0.6:
        nominal, limit = 1000 * rng.randint(0, most), rng.choice([None, 0])
        quotas.append(Quota(resource="device_milli", nominal=nominal, borrowing_limit=limit))
    if rng.random() < 0.3:
        quotas.append(Quota(resource="cpu_milli", nominal=1000 * rng.randint(0, 4 * most), pool=rng.choice(POOLS)))
    return tuple(quotas)
