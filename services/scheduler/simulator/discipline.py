"""Queueing disciplines to compare: each is a tree of queues for the production planner, and what it may know."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from services.scheduler.queue_values import Policy, Queue, Quota
from services.scheduler.simulator.job import WHOLE

Tree = Callable[[tuple[str, ...], int], tuple[Queue, ...]]  # of projects and of the number of devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Discipline:
    """How a fleet is shared."""

    about: str
    tree: Tree
    knows_duration: bool = False  # jobs tell how long they will run

    def queues(self, projects: Iterable[str], devices: int) -> Mapping[str, Queue]:
        """The queues, for these projects and a fleet of so many devices."""
        return {queue.name: queue for queue in self.tree(tuple(sorted(set(projects))), devices)}


def _one(policy: Policy, *, is_strict: bool = False) -> Tree:
    """One queue for all projects, with the settings that a queue has if nothing else is said."""

    def tree(_projects: tuple[str, ...], _devices: int) -> tuple[Queue, ...]:
        return (Queue(name="queues/default", policy=policy, is_strict=is_strict),)

    return tree


def _cohort(projects: tuple[str, ...], devices: int) -> tuple[Queue, ...]:
    """A queue for each project with an equal part as its own; what is idle is lent, and taken back."""
    root = Queue(name="queues/all", quotas=(Quota(resource="device_milli", nominal=0),))
    part = devices * WHOLE // max(1, len(projects))
    return (
        root,
        *(
            Queue(
                name=f"queues/{project.removeprefix('projects/')}",
                parent=root.name,
                quotas=(Quota(resource="device_milli", nominal=part),),
                projects=(project,),
            )
            for project in projects
        ),
    )


DISCIPLINES: Final[Mapping[str, Discipline]] = {
    "fifo": Discipline(
        about="first come, first served; nothing passes the first that does not fit",
        tree=_one(Policy.FIFO, is_strict=True),
    ),
    "backfill": Discipline(
        about="first come, first served; what fits may pass, behind the reservation of the first",
        tree=_one(Policy.FIFO),
    ),
    "sjf": Discipline(
        about="the shortest first; durations are known exactly",
        tree=_one(Policy.SHORTEST_JOB_FIRST),
        knows_duration=True,
    ),
    "fair": Discipline(
        about="the project that has used the least; durations are not known",
        tree=_one(Policy.FAIR_SHARE),
    ),
    "cohort": Discipline(
        about="a queue for each project with an equal quota; idle quota is lent, and taken back by eviction",
        tree=_cohort,
    ),
    "default": Discipline(
        about="queues/default as it is created: fair share; durations are known exactly",
        tree=_one(Policy.FAIR_SHARE),
        knows_duration=True,
    ),
    "weighted": Discipline(
        about="a weighted sum of waiting time, size and duration; durations are known exactly",
        tree=_one(Policy.WEIGHTED_DYNAMIC),
        knows_duration=True,
    ),
}
