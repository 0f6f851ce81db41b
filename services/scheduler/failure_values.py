"""What has failed and what a failure may cost, as the planner sees it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceFailure:
    """How a slice failed, as its agent judges it."""

    failure_class: str
    step: int = 0
    noticed_s: float = 0.0  # of the wall clock
    suspects: tuple[int, ...] = ()  # the slices at fault as it sees it; empty = itself
    waited: bool = False  # for others, when it failed


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartRule:
    """What a class of failure may cost."""

    failure_class: str
    max_restarts: int | None = None  # None = within the workload's own
    backoff_s: float | None = None  # None = the default
    avoids_node: bool = False
    stops_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What has failed of a gang so far, and how the last of its generations that broke did."""

    restarts: tuple[tuple[str, int], ...] = ()  # by class, sorted
    avoided: tuple[str, ...] = ()  # nodes, the newest last
    failure_class: str = ""
    slice: int = 0
    node: str = ""
    generation: int = 0
    message: str = ""
    step: int = 0
    noticed_s: float = 0.0
    exit_code: int = 0
    streak: int = 0  # in a row that got no further
    backoff_s: float = 0.0
    furthest_step: int = 0


NO_FAILURES: Final = Failures()
