"""Documents of the ledger beside the values that the planner sees, and what a batch has changed of them."""

from dataclasses import dataclass, field
from typing import Protocol

from chassis.kv import Entry
from lepton.internal.v1 import ledger_pb2, tasks_pb2
from lepton.scheduler.v1 import node_pb2, queue_pb2, workload_pb2
from services.scheduler.convert.assignments import assignment_of
from services.scheduler.queue_values import Queue
from services.scheduler.snapshot import Assignment, Node, Workload
from services.scheduler.task_table import TaskTable


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node as everyone sees it, with the document that its session has written."""

    proto: node_pb2.Node
    value: Node
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRecord:
    """A workload with the revision of its document."""

    proto: workload_pb2.Workload
    value: Workload
    mod_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRecord:
    """A queue with the revision of its document."""

    proto: queue_pb2.Queue
    value: Queue
    mod_revision: int


@dataclass(slots=True, kw_only=True)
class AssignmentRecord:
    """A generation, and the newest report about each of its slices."""

    proto: ledger_pb2.Assignment
    mod_revision: int
    statuses: dict[int, workload_pb2.Slice] = field(default_factory=dict)
    announced_store: str = ""  # what the gang was told
    tasks: TaskTable | None = None  # of an array
    _value: Assignment | None = None

    def __post_init__(self) -> None:
        if self.proto.task_count:
            self.tasks = TaskTable(self.proto)

    @property
    def value(self) -> Assignment:
        """The generation as the planner sees it."""
        if self._value is None:
            tasks = self.tasks.slices() if self.tasks is not None else None
            revision = self.mod_revision if tasks is not None else 0
            self._value = assignment_of(self.proto, self.statuses, tasks, revision)
        return self._value

    @property
    def is_revoked(self) -> bool:
        """Whether its slices have been told to stop."""
        return self.proto.HasField("revoke_time")

    def slices(self) -> list[workload_pb2.Slice]:
        """Its slices with their present states."""
        return [self.statuses.get(each.index, each) for each in self.proto.slices]

    def update(self, proto: ledger_pb2.Assignment, mod_revision: int) -> None:
        """Take over a new version of the document."""
        self.proto, self.mod_revision, self._value = proto, mod_revision, None
        if self.tasks is not None:
            self.tasks.update(proto)

    def report(self, status: workload_pb2.Slice) -> None:
        """Take over a slice's new state."""
        self.statuses[status.index] = status
        self._value = None

    def report_tasks(self, node: str, states: tasks_pb2.TaskStates, revision: int) -> None:
        """Take over what a node says of its tasks."""
        if self.tasks is not None:
            self.tasks.report(node, states, revision)
            self._value = None


@dataclass(slots=True, kw_only=True)
class Changes:
    """What one batch has changed, for those who act on it."""

    revision: int
    are_pools_others: bool = False
    nodes: dict[str, Entry | None] = field(default_factory=dict)
    assigned: list[AssignmentRecord] = field(default_factory=list)
    revoked: list[AssignmentRecord] = field(default_factory=list)
    forgotten: list[AssignmentRecord] = field(default_factory=list)
    reported: list[tuple[AssignmentRecord, workload_pb2.Slice]] = field(default_factory=list)
    grown: list[tuple[AssignmentRecord, int]] = field(default_factory=list)  # arrays, with the serial before


class Listener(Protocol):
    """Who wants to know at once; must not block."""

    def ledger_changed(self, changes: Changes) -> None:
        """A batch has been applied."""
        ...
