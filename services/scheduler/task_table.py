"""The tasks of one generation of an array, as its document and the reports of the nodes have them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from chassis import task_runs as runs
from lepton.internal.v1 import ledger_pb2, tasks_pb2
from services.scheduler.lifecycle import FINAL
from services.scheduler.snapshot import Slice, SliceState


@dataclass(slots=True)
class _Task:
    serial: int
    slice: Slice


class TaskTable:
    """Every task of the document with its newest state. A report about an earlier place of it does not count."""

    def __init__(self, document: ledger_pb2.Assignment) -> None:
        self._tasks: dict[int, _Task] = {}
        self._states: dict[str, tuple[int, tasks_pb2.TaskStates]] = {}  # by node, with the revision
        self._slices: tuple[Slice, ...] | None = None
        self.update(document)

    def update(self, document: ledger_pb2.Assignment) -> None:
        """Take over a version of the document; what goes on keeps its state."""
        before, self._tasks, self._slices = self._tasks, {}, None
        group = next(iter(document.programs), "")
        fresh: set[str] = set()
        for each in document.tasks:
            node, devices = each.node, each.devices
            width = len(devices) // max(1, runs.positions(each.runs))
            for at, (position, serial) in enumerate(runs.unpacked(each.runs)):
                known = before.get(position)
                if known is not None and known.serial == serial:
                    self._tasks[position] = known
                    continue
                has = tuple(devices[at * width : (at + 1) * width]) if width else ()
                self._tasks[position] = _Task(serial, Slice(index=position, group=group, node=node, devices=has))
                fresh.add(node)
        for node in fresh & self._states.keys():
            self._apply(node, self._states[node][1])

    def report(self, node: str, states: tasks_pb2.TaskStates, revision: int) -> None:
        """Take over what a node says of its tasks."""
        self._states[node] = revision, states
        self._apply(node, states)

    def states(self, node: str) -> tuple[int, tasks_pb2.TaskStates]:
        """What a node has said of its tasks, and the revision of that; 0 when it has not said anything."""
        return self._states.get(node) or (0, tasks_pb2.TaskStates())

    def slices(self) -> tuple[Slice, ...]:
        """The tasks, as slices by position."""
        if self._slices is None:
            self._slices = tuple(self._tasks[at].slice for at in sorted(self._tasks))
        return self._slices

    def serial(self, position: int) -> int:
        """Under which serial a task was placed; 0 = it is not here."""
        found = self._tasks.get(position)
        return found.serial if found is not None else 0

    def is_on(self, position: int, serial: int, node: str) -> bool:
        """Whether a task was placed on a node under this serial."""
        found = self._tasks.get(position)
        return found is not None and found.serial == serial and found.slice.node == node

    def running(self, node: str) -> list[Slice]:
        """The tasks of a node that have not ended, as far as it was reported."""
        return [each for each in self.slices() if each.node == node and each.state not in FINAL]

    def orders(self, node: str, after: int = 0, of: Collection[int] | None = None) -> tasks_pb2.NodeTasks:
        """What a node is to run of what was placed after this serial; of these positions, if they are given."""
        mine = [each for each in self.running(node) if self._tasks[each.index].serial > after]
        if of is not None:
            mine = [each for each in mine if each.index in of]
        return node_tasks(node, mine, {each.index: self._tasks[each.index].serial for each in mine})

    def _apply(self, node: str, states: tasks_pb2.TaskStates) -> None:
        self._slices = None
        for position, serial in runs.unpacked(states.succeeded):
            self._end(node, position, serial, SliceState.SUCCEEDED)
        for each in states.ended:
            self._end(node, each.position, each.serial, SliceState(each.state), each.message, each.exit_code)
        for task in self._tasks.values():
            if (
                task.slice.state is SliceState.ASSIGNED
                and task.serial <= states.seen_serial
                and task.slice.node == node
            ):
                task.slice = replace(task.slice, state=SliceState.RUNNING)

    def _end(
        self, node: str, position: int, serial: int, state: SliceState, message: str = "", exit_code: int = 0
    ) -> None:
        task = self._tasks.get(position)
        if task is not None and task.serial == serial and task.slice.node == node and task.slice.state not in FINAL:
            task.slice = replace(task.slice, state=state, message=message, exit_code=exit_code)


def node_tasks(node: str, tasks: Iterable[Slice], serials: Mapping[int, int]) -> tasks_pb2.NodeTasks:
    """The tasks of one node, packed; in order of position."""
    found = tasks_pb2.NodeTasks(node=node)
    placed: list[tuple[int, int]] = []
    for each in tasks:
        placed.append((each.index, serials[each.index]))
        if each.devices:
            found.devices.extend(each.devices)
    found.runs.extend(runs.packed(placed))
    return found


def all_tasks(tasks: Iterable[Slice], serials: Mapping[int, int]) -> list[tasks_pb2.NodeTasks]:
    """The tasks of all nodes, packed."""
    by_node: dict[str, list[Slice]] = {}
    for each in tasks:
        by_node.setdefault(each.node, []).append(each)
    return [node_tasks(node, by_node[node], serials) for node in sorted(by_node)]
