"""What makes a queue a good one beside its siblings: the rules that the protos cannot say, and what may change."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from lepton.errors import InvalidArgument
from lepton.names import PoolName, ProjectName, QueueName
from lepton.scheduler.v1 import queue_pb2

Queue = queue_pb2.Queue
MAX_DEPTH: Final = 8
CHANGEABLE: Final = (
    "parent",
    "weight",
    "quotas",
    "policy",
    "strictness",
    "stop_policy",
    "projects",
    "project_limits",
    "usage_half_life_s",
    "min_runtime_s",
    "aging_s",
    "disable_preemption",
)


def check_queue(queue: Queue, others: Mapping[str, Queue]) -> None:
    """Raise InvalidArgument naming every field that is wrong. `others` are all queues, by name."""
    for at, project in enumerate(queue.projects):
        ProjectName.parse(project, f"queue.projects[{at}]")
    for where in ("quotas", "project_limits"):
        for at, quota in enumerate(getattr(queue, where)):
            if quota.pool:
                PoolName.parse(quota.pool, f"queue.{where}[{at}].pool")
    if queue.parent:
        QueueName.parse(queue.parent, "queue.parent")
    fields = dict(_violations(queue, {name: each for name, each in others.items() if name != queue.name}))
    if fields:
        raise InvalidArgument("INVALID_FIELD", fields=fields)


def _violations(queue: Queue, others: Mapping[str, Queue]) -> Iterator[tuple[str, str]]:
    if problem := _parent(queue, others):
        yield "queue.parent", problem
    for where in ("quotas", "project_limits"):
        yield from _twice(getattr(queue, where), f"queue.{where}")
    for at, limit in enumerate(queue.project_limits):
        if limit.HasField("borrowing_limit") or limit.HasField("lending_limit"):
            yield f"queue.project_limits[{at}]", "must have a nominal only: a project neither borrows nor lends"
    taken = {project: name for name, other in sorted(others.items()) for project in other.projects}
    for at, project in enumerate(queue.projects):
        if project in taken:
            yield f"queue.projects[{at}]", f"{project} is in {taken[project]} already; take it out there first"


def _parent(queue: Queue, others: Mapping[str, Queue]) -> str:
    """What is wrong with the parent; empty when nothing is."""
    if not queue.parent:
        return ""
    if queue.parent == queue.name:
        return "must be another queue"
    if queue.parent not in others:
        return f"{queue.parent} does not exist; create it first"
    way = [queue.name]
    above = queue.parent
    while above:
        way.append(above)
        if above == queue.name:
            return f"would close a circle ({' > '.join(way)}); choose one that is not below {queue.name}"
        above = others[above].parent if above in others else ""
    deepest = len(way) + _height(queue.name, others) - 1
    if deepest > MAX_DEPTH:
        return f"would make the tree {deepest} levels deep; the most is {MAX_DEPTH}"
    return ""


def _height(name: str, others: Mapping[str, Queue]) -> int:
    """How many levels a queue and those below it have."""
    return 1 + max((_height(below, others) for below, each in others.items() if each.parent == name), default=0)


def _twice(quotas: Sequence[queue_pb2.Quota], where: str) -> Iterator[tuple[str, str]]:
    count = Counter((each.pool, each.resource) for each in quotas)
    for at, each in enumerate(quotas):
        if count[each.pool, each.resource] > 1:
            yield f"{where}[{at}]", f"is one of several for {each.resource} of {each.pool or 'all pools'}; keep one"


def apply_update(stored: Queue, wanted: Queue, mask: Sequence[str]) -> Queue:
    """The queue with the fields of the mask changed; without a mask, those that are set."""
    paths = list(CHANGEABLE) if list(mask) == ["*"] else list(dict.fromkeys(mask))
    unknown = [path for path in paths if path not in CHANGEABLE]
    if unknown:
        raise InvalidArgument("INVALID_FIELD", fields={"update_mask": f"{unknown[0]} cannot be changed"})
    if not paths:
        paths = [path for path in CHANGEABLE if getattr(wanted, path)]
    changed = Queue()
    changed.CopyFrom(stored)
    for path in paths:
        changed.ClearField(path)  # type: ignore[arg-type]
    part = Queue()
    part.CopyFrom(wanted)
    for path in CHANGEABLE:
        if path not in paths:
            part.ClearField(path)  # type: ignore[arg-type]
    changed.MergeFrom(part)
    changed.name = stored.name
    return changed
