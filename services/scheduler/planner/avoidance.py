"""Places away from the nodes where a workload has failed, as long as there are any."""

from collections.abc import Iterator, Sequence

from services.scheduler.planner.ask import Ask, Spot
from services.scheduler.planner.fleet import Fleet
from services.scheduler.snapshot import Workload


def attempts(asks: Sequence[Ask], workload: Workload) -> Iterator[tuple[Ask, tuple[str, ...]]]:
    """What to try in turn: every pool without the nodes to be avoided, then every pool with them."""
    avoided = workload.failures.avoided
    if avoided:
        yield from ((ask, avoided) for ask in asks)
    yield from ((ask, ()) for ask in asks)


def place(fleet: Fleet, ask: Ask, avoided: Sequence[str]) -> tuple[Spot, ...] | None:
    """Hold places as `Fleet.place` does, with none on the nodes to be avoided."""
    if not avoided:
        return fleet.place(ask)
    mark = fleet.mark()
    for node in avoided:
        fleet.fill(node)
    spots = fleet.place(ask)
    fleet.undo(mark)
    if spots is None:
        return None
    demands = {want.group.name: want.group.demand for want in ask.wants}
    for each in spots:
        fleet.hold(each.node, demands[each.group], each.devices)
    return spots


def words(workload: Workload) -> str:
    """What is said about it to whoever asks about the workload."""
    failures = workload.failures
    if not failures.avoided:
        return ""
    return f"; it leaves out {', '.join(failures.avoided)} while it fits elsewhere, for it failed there"
