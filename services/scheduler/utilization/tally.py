"""One sample: what pools, nodes, queues and projects hold, really use and wait for, summed over a snapshot."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.holdings import holdings
from services.scheduler.planner.quota import project_of, queue_of
from services.scheduler.snapshot import Assignment, Group, Snapshot, State, Workload
from services.scheduler.utilization.amounts import MEASURED, ZERO, Amounts, add, add_demand

_PLACED = frozenset({State.ASSIGNED, State.RUNNING})

Used = tuple[float, float]  # thousandths of a core, bytes of memory
_Waiting = tuple[str, str, tuple[str, ...]]  # project, queue, pools
_Held = tuple[str, str, str]  # node, project, queue


class Tally:
    """Sums up; fed with workloads and assignments in parts, so that nothing else has to wait for all of them."""

    def __init__(self, snapshot: Snapshot, used: Mapping[str, Used]) -> None:
        self.allocated: defaultdict[str, Amounts] = defaultdict(lambda: [*ZERO])  # by name of whatever kind
        self.wanted: defaultdict[str, Amounts] = defaultdict(lambda: [*ZERO])
        self.used: defaultdict[str, Amounts] = defaultdict(lambda: [*ZERO])
        self._snapshot = snapshot
        self._measured = used
        self._waiting: defaultdict[_Waiting, Amounts] = defaultdict(lambda: [*ZERO])
        self._held: defaultdict[_Held, Amounts] = defaultdict(lambda: [*ZERO])
        self._queues: dict[str, str] = {}  # of the projects

    def wait(self, workloads: Iterable[Workload]) -> None:
        """Add what those want that wait: the least with which each would start, or all tasks that might run."""
        for workload in workloads:
            is_waiting = workload.state is State.PENDING or (workload.array is not None and workload.state in _PLACED)
            if is_waiting and not workload.is_held:
                project, queue = self._owners(workload.name, workload)
                wants = self._waiting[project, queue, workload.pools]
                for group in workload.groups:
                    add_demand(wants, group.demand, self._missing(workload, group))

    def hold(self, assignments: Iterable[tuple[str, tuple[Assignment, ...]]]) -> None:
        """Add what the slices of these workloads hold of nodes."""
        nodes, workloads = self._snapshot.nodes, self._snapshot.workloads
        for name, generations in assignments:
            project, queue = self._owners(name, workloads.get(name))
            counts: dict[tuple[str, int, str], int] = {}
            for assignment, each in holdings(generations, nodes):
                key = each.node, assignment.generation, each.group
                counts[key] = counts.get(key, 0) + 1
            ran = {each.generation: each.groups for each in generations}
            for (node, generation, group), count in counts.items():
                add_demand(self._held[node, project, queue], ran[generation][group].demand, count)

    def finish(self) -> Iterator[None]:
        """Sum up by node, pool, queue and project, step by step.

        A workload that may go to several pools is waited for in each. What a node really uses is ascribed to the
        projects and queues on it by what they hold of it.
        """
        for (project, queue, pools), wants in self._waiting.items():
            for name in (*(pools or self._snapshot.pools), project, *self._line(queue)):
                add(self.wanted[name], wants)
        nodes = self._snapshot.nodes
        for (node, _, _), amounts in self._held.items():
            add(self.allocated[node], amounts)
        yield
        for name, used in self._measured.items():
            if name in nodes:
                measured = [*used, *ZERO[MEASURED:]]
                self.used[name] = measured
                add(self.used[nodes[name].pool], measured)
        yield
        for (node, project, queue), amounts in self._held.items():
            ascribed = self._ascribed(node, amounts)
            for name in (project, *self._line(queue)):
                add(self.allocated[name], amounts)
                add(self.used[name], ascribed)
            add(self.allocated[nodes[node].pool], amounts)
        yield

    def values(self, name: str) -> Amounts:
        """What is recorded of a name: allocated of every resource, used of those that are measured, then wanted."""
        return [*self.node_values(name), *self.wanted.get(name, ZERO)]

    def node_values(self, name: str) -> Amounts:
        """The same of a node, for which nothing waits."""
        return [*self.allocated.get(name, ZERO), *self.used.get(name, ZERO)[:MEASURED]]

    def _missing(self, workload: Workload, group: Group) -> int:
        if workload.array is None:
            return group.min_count
        generations = self._snapshot.assignments.get(workload.name, ())
        live = sum(each.state not in FINAL for generation in generations for each in generation.slices)
        return max(0, min(workload.array.left, group.max_count) - live)

    def _ascribed(self, node: str, amounts: Amounts) -> Amounts:
        """The part of a node's real use that falls to those who hold so much of it."""
        used = self._measured.get(node)
        if used is None:
            return [*ZERO]
        held = self.allocated[node]
        parts = [used[at] * amounts[at] / held[at] if held[at] else 0.0 for at in range(MEASURED)]
        return [*parts, *ZERO[MEASURED:]]

    def _owners(self, name: str, workload: Workload | None) -> tuple[str, str]:
        """The project and the queue of a workload."""
        project = project_of(name)
        if workload is None:
            return project, ""
        if workload.queue:
            return project, queue_of(workload, self._snapshot)
        if project not in self._queues:
            self._queues[project] = queue_of(workload, self._snapshot)
        return project, self._queues[project]

    def _line(self, queue: str) -> Iterator[str]:
        """A queue and all above it."""
        seen = set[str]()
        while queue and queue not in seen:
            seen.add(queue)
            yield queue
            above = self._snapshot.queues.get(queue)
            queue = above.parent if above else ""
