"""Why a workload waits: everything that is said about it, from one snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.scheduler.explain.blockers import in_the_way, named
from services.scheduler.explain.changes import Change
from services.scheduler.explain.estimate import Spread, Start, estimate
from services.scheduler.explain.gaps import Gap, gaps
from services.scheduler.explain.queueing import Line, line_of, without_those_behind
from services.scheduler.explain.rehearsal import PLACED, Budget, OutOfBudgetError
from services.scheduler.explain.smallest_change import smallest_change
from services.scheduler.explain.trial import Trial
from services.scheduler.lifecycle import FINAL
from services.scheduler.planner.avoidance import words as avoidance
from services.scheduler.snapshot import Reason, Snapshot, State, TaskArray, Workload

# What each part of an answer may cost, in workloads and nodes that the planner looks at: some 20 s of one core.
LOOKS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a workload waits, and what would help."""

    reason: Reason
    message: str
    gaps: tuple[Gap, ...] = ()
    blockers: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()  # that admit it together
    start: Start | None = None
    position: int = 0


def explain(snapshot: Snapshot, name: str, now: float, spread: Spread) -> Explanation:
    """Explain a workload that has not ended."""
    workload = snapshot.workloads[name]
    if workload.state not in PLACED and workload.state is not State.PENDING:
        return Explanation(reason=Reason.NONE, message=f"it is {workload.state.name}: {workload.message}".rstrip(": "))
    if workload.state in PLACED and workload.array is not None:
        return Explanation(reason=workload.reason, message=_tasks(snapshot, workload, workload.array))
    if workload.state in PLACED and workload.reason is Reason.NONE:
        return Explanation(reason=Reason.NONE, message=_placed(snapshot, workload))
    trial = Trial(snapshot, name, now, Budget(LOOKS))
    if trial.is_placed(trial.base):
        message = "it has a place: the planner has not acted on it yet"
        start = Start(p50_s=0.0, p90_s=0.0, basis="there is room for it now")
        return Explanation(reason=Reason.PENDING_EVALUATION, message=message, start=start)
    return _why(trial, spread)


def _why(trial: Trial, spread: Spread) -> Explanation:
    after = trial.base.workload(trial.workload.name)
    if after is None:
        return Explanation(reason=Reason.NONE, message="it is about to end")
    found = gaps(trial.base.snapshot, after)
    line = line_of(trial.snapshot, trial.workload.name, trial.now)
    ahead = _ahead(trial, line)
    who = in_the_way(ahead, found)
    changes = _changes(trial, ahead, found)  # before whatever else the budget is spent on
    others = f"; {who.others} workloads of other projects hold what it needs" if who.others else ""
    return Explanation(
        reason=after.reason,
        message=after.message + others + avoidance(trial.workload),
        gaps=found,
        blockers=named(ahead, who),
        changes=changes,
        start=estimate(ahead, spread, Budget(LOOKS)),
        position=line.position,
    )


def _ahead(trial: Trial, line: Line) -> Trial:
    """The same question without those behind it, unless they matter."""
    if not line.behind:
        return trial
    snapshot = without_those_behind(trial.snapshot, line)
    ahead = Trial(snapshot, trial.workload.name, trial.now, Budget(LOOKS))
    return trial if ahead.is_placed(ahead.base) else ahead


def _changes(trial: Trial, ahead: Trial, short: Sequence[Gap]) -> tuple[Change, ...]:
    """Looked for without those behind it, and tried out with them: some may overtake it once there is room."""
    found = smallest_change(ahead, in_the_way(ahead, short).removable)
    if ahead is trial or not found:
        return found
    try:
        return found if trial.admits(*found) else smallest_change(trial, in_the_way(trial, short).removable)
    except OutOfBudgetError:
        return ()


def _placed(snapshot: Snapshot, workload: Workload) -> str:
    pool = next((each.pool for each in snapshot.assignments.get(workload.name, ()) if not each.revoked), "")
    nodes = len({each.node for each in workload.slices})
    where = f" on {nodes} {'node' if nodes == 1 else 'nodes'} of {pool}" if pool else ""
    does = "it runs" if workload.state is State.RUNNING else "it has a place, and its slices are starting"
    slices = f"{len(workload.slices)} {'slice' if len(workload.slices) == 1 else 'slices'}"
    return f"{does}: {slices}{where}{avoidance(workload)}"


def _tasks(snapshot: Snapshot, workload: Workload, array: TaskArray) -> str:
    """How the tasks of an array stand."""
    generations = snapshot.assignments.get(workload.name, ())
    live = [each for generation in generations for each in generation.slices if each.state not in FINAL]
    nodes = len({each.node for each in live})
    where = f" on {nodes} {'node' if nodes == 1 else 'nodes'}" if live else ""
    waiting = array.left - len(live)
    said = f"of its {array.count} tasks {len(live)} run{where}, {waiting} wait, {array.succeeded} have ended well"
    failed = f", {array.failed} have failed" if array.failed else ""
    return f"{said}{failed}{f': {workload.message}' if workload.message else ''}"
