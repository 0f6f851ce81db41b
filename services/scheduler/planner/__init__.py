"""The planner: a pure function from a snapshot of the fleet to the decisions that should follow."""

from services.scheduler.planner.cycle import Cycle
from services.scheduler.planner.decision import Decision, Placement, Plan, Revocation
from services.scheduler.planner.memory import Memory
from services.scheduler.snapshot import Snapshot

__all__ = ["Decision", "Memory", "Placement", "Plan", "Revocation", "plan"]


def plan(snapshot: Snapshot, now: float, memory: Memory | None = None, most: int = 0) -> Plan:
    """Decide about every workload that has not ended, in the order of the queues. Equal snapshots give equal plans.

    A memory makes one plan after another faster; it does not change them. Once `most` workloads have got a place the
    plan ends, and wants to be followed by another at once; 0 is no limit.
    """
    return Cycle(snapshot, now, memory, most).run()
