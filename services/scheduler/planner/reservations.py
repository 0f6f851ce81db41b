"""What is reserved: places that are being freed for one workload, kept from all others until it has taken them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from services.scheduler.planner.ask import Spot
from services.scheduler.planner.fit import WHOLE
from services.scheduler.planner.holdings import holdings
from services.scheduler.planner.reasons import allowed_pools
from services.scheduler.snapshot import Assignment, Demand, Ran, Reservation, Slice, Snapshot, State, Workload

MARGIN_S: Final = 60.0  # beyond the grace of the victims: then whatever keeps them is not waited for any more
_AMOUNTS: Final = ("cpu_milli", "memory_bytes", "storage_bytes", "network_mbps")


@dataclass(slots=True)
class Load:
    """An amount of everything on one node."""

    amounts: dict[str, int] = field(default_factory=dict)
    devices: dict[int, int] = field(default_factory=dict)

    def add(self, demand: Demand, devices: Iterable[int]) -> None:
        for name in _AMOUNTS:
            self.amounts[name] = self.amounts.get(name, 0) + getattr(demand, name)
        for index in devices:
            self.devices[index] = self.devices.get(index, 0) + min(demand.device_milli, WHOLE)

    def settle(self, credit: "Load") -> None:
        """Take from both what they have in common."""
        _settle(self.amounts, credit.amounts)
        _settle(self.devices, credit.devices)


_Key = TypeVar("_Key")


def _settle(mine: dict[_Key, int], theirs: dict[_Key, int]) -> None:
    for key in mine:
        common = min(mine[key], theirs.get(key, 0))
        if common:
            mine[key] -= common
            theirs[key] -= common


class Reserved:
    """The reservations of a snapshot, each with what it takes beyond what its victims still hold."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._standing = dict(snapshot.reservations)
        self._extras: dict[str, Assignment] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._standing

    def get(self, name: str) -> Reservation | None:
        """What is reserved for a workload."""
        return self._standing.get(name)

    def names(self) -> list[str]:
        """The workloads for which something is reserved, in order."""
        return sorted(self._standing)

    def drop(self, name: str) -> None:
        """It is not reserved any more."""
        self._standing.pop(name, None)
        if self._extras is not None:
            self._extras.pop(name, None)

    def add(self, reservation: Reservation, credit: Mapping[str, "Load"]) -> None:
        """One that is made in this cycle; `credit` is what is being freed for it, by node."""
        self._prepare()
        assert self._extras is not None
        loads = loads_of(reservation.slices, reservation.demands)
        for node, load in loads.items():
            if node in credit:
                load.settle(credit[node])
        self._standing[reservation.workload] = reservation
        self._extras[reservation.workload] = as_slices(reservation.workload, reservation.pool, loads, self._snapshot)

    def is_victim(self, name: str, generation: int) -> bool:
        """Whether a generation is being stopped for some reservation."""
        return any((name, generation) in each.victims for each in self._standing.values())

    def beyond(self, name: str) -> Assignment:
        """What a reservation takes of each of its nodes beyond what its victims hold there, as slices that hold it."""
        self._prepare()
        assert self._extras is not None
        return self._extras[name]

    def _prepare(self) -> None:
        if self._extras is None:
            self._extras = extras(self._standing, self._snapshot)


def extras(reservations: Mapping[str, Reservation], snapshot: Snapshot) -> dict[str, Assignment]:
    """For each reservation max(what its victims hold, what it reserves) less what they hold: by node, elementwise.

    What a victim holds is set against one reservation only; against its own first, when it is being resized.
    """
    owed: dict[tuple[str, int, str], Load] = {}
    for name, generation in {victim for each in reservations.values() for victim in each.victims}:
        for assignment, held in holdings(snapshot.assignments.get(name, ()), snapshot.nodes):
            if assignment.generation == generation:
                credit = owed.setdefault((name, generation, held.node), Load())
                credit.add(assignment.groups[held.group].demand, held.devices)
    found: dict[str, Assignment] = {}
    order = sorted(reservations, key=lambda name: (not _is_resize(reservations[name]), name))
    for name in order:
        loads = loads_of(reservations[name].slices, reservations[name].demands)
        for node, load in loads.items():
            for victim in reservations[name].victims:
                if (*victim, node) in owed:
                    load.settle(owed[*victim, node])
        found[name] = as_slices(name, reservations[name].pool, loads, snapshot)
    return found


def _is_resize(reservation: Reservation) -> bool:
    return any(victim == reservation.workload for victim, _ in reservation.victims)


def loads_of(
    slices: Iterable[Slice | Spot], demands: Mapping[str, Demand], loads: dict[str, Load] | None = None
) -> dict[str, Load]:
    """What slices take, by node, added to what is there already."""
    loads = {} if loads is None else loads
    for each in slices:
        loads.setdefault(each.node, Load()).add(demands[each.group], each.devices)
    return loads


def as_slices(name: str, pool: str, loads: Mapping[str, Load], snapshot: Snapshot) -> Assignment:
    """An assignment whose slices hold these loads: one for each node, and one for each device."""
    slices: list[Slice] = []
    groups: dict[str, Ran] = {}
    for node, demand, devices in _parts(loads, snapshot):
        group = str(len(slices))
        groups[group] = Ran(demand=demand, program=b"")
        slices.append(Slice(index=len(slices), group=group, node=node, devices=devices))
    sessions = {each.node: snapshot.nodes[each.node].session for each in slices}
    return Assignment(workload=name, generation=0, pool=pool, slices=tuple(slices), sessions=sessions, groups=groups)


def _parts(loads: Mapping[str, Load], snapshot: Snapshot) -> Iterator[tuple[str, Demand, tuple[int, ...]]]:
    for node in sorted(loads):
        here = snapshot.nodes.get(node)
        if here is None:
            continue
        if any(loads[node].amounts.values()):
            amounts = loads[node].amounts
            demand = Demand(
                cpu_milli=amounts["cpu_milli"],
                memory_bytes=amounts["memory_bytes"],
                storage_bytes=amounts["storage_bytes"],
                network_mbps=amounts["network_mbps"],
            )
            yield node, demand, ()
        known = {device.index for device in here.devices}
        for index, milli in sorted(loads[node].devices.items()):
            if milli and index in known:
                yield node, Demand(device_milli=milli), (index,)


def is_void(reservation: Reservation, workload: Workload, snapshot: Snapshot) -> bool:
    """Whether a reservation is for nothing: its workload cannot take it, or its places are not there."""
    if workload.is_held or workload.state not in (State.PENDING, State.ASSIGNED, State.RUNNING):
        return True
    if reservation.pool not in allowed_pools(workload, snapshot):
        return True
    generations = snapshot.assignments.get(workload.name, ())
    if generations and not generations[-1].revoked:
        return True  # it has a place
    return any(
        (node := snapshot.nodes.get(each.node)) is None or not node.is_schedulable for each in reservation.slices
    )


def reservation_for(
    workload: Workload,
    pool: str,
    slices: Iterable[Slice],
    victims: Iterable[tuple[str, int]],
    expires_at: float,
) -> Reservation:
    """Places for a workload."""
    return Reservation(
        workload=workload.name,
        pool=pool,
        slices=tuple(slices),
        demands={group.name: group.demand for group in workload.groups},
        victims=tuple(sorted(victims)),
        expires_at=expires_at,
    )
