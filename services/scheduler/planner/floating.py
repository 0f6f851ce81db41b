"""Floating resources, which belong to no node: what admitted workloads hold of them."""

from collections.abc import Iterator

from services.scheduler.snapshot import Snapshot, State, Workload


def floating_use(snapshot: Snapshot) -> dict[str, int]:
    """How much of each is held: by what has a place, has its quota reserved, or still has something running."""
    use: dict[str, int] = {}
    for workload in _holders(snapshot):
        for name, amount in workload.floating:
            use[name] = use.get(name, 0) + amount
    return use


def _holders(snapshot: Snapshot) -> Iterator[Workload]:
    for name, workload in snapshot.workloads.items():
        if not workload.floating:
            continue
        is_admitted = workload.state is not State.PENDING or workload.quota_reserved_at is not None
        if is_admitted or name in snapshot.assignments or name in snapshot.reservations:
            yield workload
