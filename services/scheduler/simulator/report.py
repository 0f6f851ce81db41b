"""What a simulation showed, as figures, and several of them side by side."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import fmean
from typing import Any, Final

from services.scheduler.planner.verdict import PREEMPTED, RESIZED
from services.scheduler.simulator.meter import Meter, jain
from services.scheduler.simulator.progress import Progress

_TINY_S: Final = 10.0  # shorter jobs count as this long in the slowdown, as is usual


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one run; seconds of simulated time unless the name says otherwise."""

    policy: str
    jobs: int
    finished: int
    mean_jct_s: float
    p50_jct_s: float
    p99_jct_s: float
    mean_queueing_s: float  # from submission to the first start
    p50_queueing_s: float
    p99_queueing_s: float
    mean_waiting_s: float  # all time without a place, also after evictions
    mean_slowdown: float  # JCT over the undisturbed run time, of at least 10 s
    p99_slowdown: float
    makespan_s: float
    utilisation_pct: float
    contended_utilisation_pct: float  # while something waited
    contended_pct: float  # of the time something waited
    fragmentation_pct: float  # of the devices free while something waited: where its typical slice does not fit
    fairness_jain: float  # over projects, of what each had of its max-min fair share
    deprived_pct: float  # of all fair shares: what others had instead, or nobody
    mean_queue: float
    most_queued: int
    preemptions: int
    resizes: int
    revocations: Mapping[str, int]
    lost_work_device_s: float
    lost_work_pct: float  # of the useful work
    cycles: int
    decisions: int

    def document(self) -> dict[str, Any]:
        """As JSON would have it, rounded so that it can be compared."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def report(policy: str, done: Sequence[Progress], meter: Meter, *, cycles: int, decisions: int) -> Report:
    """The figures of jobs and of the time that passed."""
    ended = [each for each in done if each.ended_at is not None and each.started_at is not None]
    jct = sorted((each.ended_at or 0.0) - each.job.at for each in ended)
    queueing = sorted((each.started_at or 0.0) - each.job.at for each in ended)
    slowdowns = sorted(
        max(1.0, ((each.ended_at or 0.0) - each.job.at) / max(_TINY_S, each.job.work_s)) for each in ended
    )
    revocations = Counter(reason for each in done for reason in each.revoked)
    useful = sum(each.job.work_s * each.job.device_milli / 1000 for each in ended)
    lost = sum(each.lost_s * each.job.device_milli / 1000 for each in done)
    satisfied = {project: meter.served[project] / due for project, due in meter.due.items() if due > 0}
    return Report(
        policy=policy,
        jobs=len(done),
        finished=len(ended),
        mean_jct_s=_mean(jct),
        p50_jct_s=quantile(jct, 0.5),
        p99_jct_s=quantile(jct, 0.99),
        mean_queueing_s=_mean(queueing),
        p50_queueing_s=quantile(queueing, 0.5),
        p99_queueing_s=quantile(queueing, 0.99),
        mean_waiting_s=_mean([each.waited_s for each in ended]),
        mean_slowdown=_mean(slowdowns),
        p99_slowdown=quantile(slowdowns, 0.99),
        makespan_s=max((each.ended_at or 0.0 for each in ended), default=0.0)
        - min((each.job.at for each in done), default=0.0),
        utilisation_pct=_pct(meter.busy, meter.capacity),
        contended_utilisation_pct=_pct(meter.contended_busy, meter.contended_capacity),
        contended_pct=_pct(meter.contended_s, meter.since),
        fragmentation_pct=_pct(meter.stranded, meter.free),
        fairness_jain=jain(satisfied),
        deprived_pct=_pct(sum(meter.due.values()) - sum(meter.served.values()), sum(meter.due.values())),
        mean_queue=meter.queued / meter.since if meter.since else 0.0,
        most_queued=meter.most_queued,
        preemptions=revocations[PREEMPTED],
        resizes=revocations[RESIZED],
        revocations=dict(sorted(revocations.items())),
        lost_work_device_s=lost,
        lost_work_pct=_pct(lost, useful),
        cycles=cycles,
        decisions=decisions,
    )


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of all do not exceed; 0 of nothing."""
    return ordered[max(0, ceil(part * len(ordered)) - 1)] if ordered else 0.0


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as a Markdown table: key of the document -> heading; numbers to three significant places or whole."""
    rows = list(rows)
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _pct(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0
