"""The tree of queues, level by level: what belongs to whom, what is lent, and the bounds on the way up.

A *cell* (a pool and a resource) bounds a queue when the queue itself or one above it has a quota for it. A use that
is bounded counts at the queue; what is more than the queue keeps for itself counts at its parent, and so on up. A
queue between that has no quota for the cell passes everything on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from services.scheduler.planner.use import Cell, Use
from services.scheduler.queue_values import Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaGap:
    """One bound that is in the way: where all of them are raised by what is missing, it fits."""

    queue: str
    pool: str
    resource: str
    needed: int
    available: int
    project: str = ""  # it is the bound of each single project

    @property
    def missing(self) -> int:
        """By how much the bound is too low."""
        return self.needed - self.available


@dataclass(slots=True)
class Level:
    """One cell of one queue."""

    nominal: int = 0
    borrowing_limit: int | None = None
    lending_limit: int | None = None
    is_declared: bool = False
    is_bounding: bool = False  # this queue or one above it declares it
    subtree: int = 0  # what the queue and those below it have, less what those below do not lend
    kept: int = 0  # what of that is not lent
    most: int = 0  # what the queue could use if nothing were used
    used: int = 0

    @property
    def over(self) -> int:
        """What of the use is the parent's business."""
        return max(0, self.used - self.kept)

    @property
    def borrowed(self) -> int:
        """What is used beyond what belongs to the queue."""
        return max(0, self.used - self.subtree)


@dataclass(slots=True, eq=False)
class QueueNode:
    """One queue in the tree."""

    queue: Queue
    parent: "QueueNode | None" = None
    levels: dict[Cell, Level] = field(default_factory=dict)
    limits: dict[Cell, int] = field(default_factory=dict)  # of each single project
    by_project: dict[str, dict[Cell, int]] = field(default_factory=dict)
    total: dict[Cell, int] = field(default_factory=dict)  # all that it and those below it use, bounded or not

    def chain(self) -> "Iterator[QueueNode]":
        """The queue, and those above it."""
        node: QueueNode | None = self
        while node is not None:
            yield node
            node = node.parent

    def is_bounded(self, cell: Cell) -> bool:
        """Whether a quota, its own or one above, bounds it."""
        level = self.levels.get(cell)
        return level is not None and level.is_bounding

    def add(self, project: str, use: Use, sign: int) -> None:
        """Use more (sign -1: less) of these cells."""
        for each in self.chain():
            mine = each.by_project.setdefault(project, {}) if each.limits else None
            for cell, amount in use.items():
                each.total[cell] = each.total.get(cell, 0) + sign * amount
                if mine is not None:
                    mine[cell] = mine.get(cell, 0) + sign * amount
        for cell, amount in use.items():
            if self.is_bounded(cell):
                self._add(cell, sign * amount)

    def _add(self, cell: Cell, amount: int) -> None:
        for each in self.chain():
            level = each.levels[cell]
            before = level.over
            level.used += amount
            amount = level.over - before
            if not amount:
                return

    def gaps(self, project: str, use: Use, *, is_idle: bool) -> Iterator[QuotaGap]:
        """The bounds that do not allow so much more; with `is_idle`, as if nothing were used."""
        for each in self.chain():
            for cell, limit in each.limits.items():
                used = 0 if is_idle else each.by_project.get(project, {}).get(cell, 0)
                if use.get(cell, 0) > max(0, limit - used):
                    yield each.gap(cell, use[cell], limit - used, project)
        for cell, amount in use.items():
            if self.is_bounded(cell):
                yield from self._gaps(cell, amount, is_idle=is_idle)

    def _gaps(self, cell: Cell, amount: int, *, is_idle: bool) -> Iterator[QuotaGap]:
        for each in self.chain():
            level = each.levels[cell]
            used = 0 if is_idle else level.used
            if each.parent is None:
                if amount > level.subtree - used:
                    yield each.gap(cell, amount, level.subtree - used)
                return
            amount -= min(amount, max(0, level.kept - used))
            if not amount:
                return
            if level.borrowing_limit is not None:
                room = level.subtree - level.kept + level.borrowing_limit - max(0, used - level.kept)
                if amount > room:
                    yield each.gap(cell, amount, room)

    def gap(self, cell: Cell, needed: int, available: int, project: str = "") -> QuotaGap:
        """A bound of this queue that is in the way."""
        return QuotaGap(
            queue=self.queue.name, pool=cell[0], resource=cell[1], needed=needed, available=available, project=project
        )

    def passed_on(self, use: Use) -> dict[Cell, int]:
        """What of so much more is the parent's business; what no quota bounds is, all of it."""
        passed: dict[Cell, int] = {}
        for cell, amount in use.items():
            level = self.levels.get(cell)
            is_bounding = level is not None and level.is_bounding
            passed[cell] = max(0, level.used + amount - level.kept) - level.over if level and is_bounding else amount
        return passed

    def borrows(self, cell: Cell, amount: int) -> bool:
        """Whether so much more is beyond what belongs to the queue, or to the one above it that declares the cell."""
        if not self.is_bounded(cell):
            return False
        if self.levels[cell].used + amount <= 0:
            return False
        for each in self.chain():
            level = each.levels[cell]
            if level.is_declared:
                return level.used + amount > level.subtree
            amount = max(0, level.used + amount - level.kept) - level.over
        return False


def tree_of(queues: Mapping[str, Queue]) -> dict[str, QueueNode]:
    """The tree, with nothing used."""
    nodes = {name: QueueNode(queue=queues[name]) for name in sorted(queues)}
    for node in nodes.values():
        node.parent = nodes.get(node.queue.parent)
        node.limits = {(each.pool, each.resource): each.nominal for each in node.queue.project_limits}
    for node in nodes.values():
        _cut_circle(node)
    downwards = sorted(nodes.values(), key=lambda each: (sum(1 for _ in each.chain()), each.queue.name))
    _declare(downwards)
    for node in reversed(downwards):
        for cell, level in node.levels.items():
            level.subtree += level.nominal
            if level.lending_limit is not None:
                level.kept = max(0, level.subtree - level.lending_limit)
            if node.parent is not None:
                node.parent.levels[cell].subtree += level.subtree - level.kept
    for node in downwards:
        for cell, level in node.levels.items():
            level.most = level.subtree
            if node.parent is not None:
                level.most = level.kept + node.parent.levels[cell].most
                if level.borrowing_limit is not None:
                    level.most = min(level.most, level.subtree + level.borrowing_limit)
    return nodes


def _declare(downwards: list[QueueNode]) -> None:
    """Give every queue a level for what it declares itself, and for what one above or below it does."""
    for node in downwards:
        for quota in node.queue.quotas:
            node.levels[quota.pool, quota.resource] = Level(
                nominal=quota.nominal,
                borrowing_limit=quota.borrowing_limit,
                lending_limit=quota.lending_limit,
                is_declared=True,
                is_bounding=True,
            )
        for cell, above in node.parent.levels.items() if node.parent is not None else ():
            if above.is_bounding:
                node.levels.setdefault(cell, Level()).is_bounding = True
    for node in reversed(downwards):
        for cell in node.levels if node.parent is not None else ():
            assert node.parent is not None
            node.parent.levels.setdefault(cell, Level())


def _cut_circle(node: QueueNode) -> None:
    """A circle, which the service does not let in, must not hang the planner: its first queue by name is a root."""
    seen: list[QueueNode] = []
    each: QueueNode | None = node
    while each is not None and each not in seen:
        seen.append(each)
        each = each.parent
    if each is not None:
        min(seen[seen.index(each) :], key=lambda one: one.queue.name).parent = None
