"""The live view of jobs: what is known of them now, and how that is drawn; draws nothing itself."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lepton.cli.cells import duration, state
from lepton.cli.job_words import eta_s, failure_line, failures, straggler_line
from lepton.cli.progress import log_line
from lepton.client.jobs import ENDED
from lepton.curves import sparkline
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import LogLine, MetricPoint

_LOSSES: Final = ("loss", "train_loss", "held_out_loss", "validation_loss")
_KEPT: Final = 4096
_BAR: Final = 10
_LINES: Final = 12
_COLOURS: Final = {
    Job.PENDING: "yellow",
    Job.STARTING: "yellow",
    Job.RUNNING: "cyan",
    Job.CANCELLING: "yellow",
    Job.SUCCEEDED: "green",
    Job.FAILED: "red",
    Job.CANCELLED: "magenta",
}


@dataclass(slots=True)
class Losses:
    """The losses of one job, the newest last, thinned when they become many."""

    values: list[float] = field(default_factory=list)
    name: str = ""
    """Which metric they are of: one, for the losses of different samples make no curve."""

    def add(self, point: MetricPoint) -> None:
        """Take a measurement; one without a loss adds nothing."""
        name = next((name for name in _LOSSES if name in point.values), "")
        if name and (not self.name or _LOSSES.index(name) < _LOSSES.index(self.name)):
            self.name, self.values = name, []
        if self.name in point.values:
            self.values.append(point.values[self.name])
        if len(self.values) > _KEPT:
            self.values[:-1] = self.values[:-1:2]


class Board:
    """Some jobs, or one of which more is shown."""

    def __init__(self, *, is_one: bool) -> None:
        self._is_one = is_one
        self._jobs: dict[str, Job] = {}
        self._losses: dict[str, Losses] = {}
        self._lines: deque[LogLine] = deque(maxlen=_LINES)
        self._measured: dict[str, float] = {}

    def put(self, job: Job) -> None:
        """A job has changed."""
        self._jobs[job.name] = job

    def remove(self, name: str) -> None:
        """A job is gone."""
        self._jobs.pop(name, None)
        self._losses.pop(name, None)

    def measure(self, name: str, point: MetricPoint) -> None:
        """A job has measured something."""
        self._losses.setdefault(name, Losses()).add(point)
        self._measured.update(point.values)

    def say(self, line: LogLine) -> None:
        """A rank has printed a line."""
        self._lines.append(line)

    def draw(self, now: datetime, most: int = 100) -> RenderableType:
        """What is to be seen now, with `most` jobs: those that run before those that have ended, the newest first."""
        order = sorted(self._jobs.values(), key=_rank)
        shown = order[:most]
        parts: list[RenderableType] = [self._table(shown, now)]
        if len(order) > len(shown):
            parts.append(Text(f"and {len(order) - len(shown)} more: lepton jobs list", style="dim"))
        if not order:
            parts.append(Text("there are no jobs yet: lepton train image_classifier --data digits", style="dim"))
        for job in shown:
            parts.extend(self._remarks(job))
        if self._is_one:
            parts.extend(self._more())
        return Group(*parts)

    def _table(self, jobs: Iterable[Job], now: datetime) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for title in ("NAME", "STATE", "PROGRESS", "STEP", "EPOCH", "LOSS", "", "SAMPLES/S", "BUSY", "ETA", "NODES"):
            table.add_column(title, no_wrap=True, overflow="ellipsis")
        table.add_column("RESTARTS", no_wrap=True)
        for job in jobs:
            table.add_row(*self._row(job, now))
        return table

    def _row(self, job: Job, now: datetime) -> Iterator[Text]:
        told = job.progress
        losses = self._losses.get(job.name, Losses()).values
        loss = losses[-1] if losses else next((job.metrics[name] for name in _LOSSES if name in job.metrics), None)
        left_s = eta_s(job, now)
        yield Text(job.name.rpartition("/")[2])
        yield Text(state(job), style=_COLOURS.get(job.state, ""))
        yield Text(f"{bar(told.fraction)} {100 * told.fraction:3.0f}%")
        yield Text(f"{told.step}{f'/{told.total_steps}' if told.total_steps else ''}")
        yield Text(str(told.epoch + 1) if told.step else "-")
        yield Text("-" if loss is None else f"{loss:.4g}")
        yield Text(sparkline(losses), style="cyan")
        yield Text(f"{told.samples_per_s:.4g}" if told.samples_per_s else "-")
        yield Text(f"{100 * told.utilization:.0f}%" if told.utilization else "-")
        yield Text(duration(left_s) if left_s else "-")
        yield Text(str(len(job.nodes)))
        yield Text(str(job.restarts), style="yellow" if job.restarts else "")

    def _remarks(self, job: Job) -> Iterator[Text]:
        name = "" if self._is_one else f"{job.name.rpartition('/')[2]}: "
        if job.state in (Job.PENDING, Job.STARTING, Job.CANCELLING) and job.message:
            yield Text(f"{name}{job.message}", style="dim")
        if (slow := straggler_line(job)) and job.state not in ENDED:
            yield Text(f"{name}{slow}", style="yellow")
        if (found := failures(job)) and job.state != Job.SUCCEEDED:
            yield Text(f"{name}{failure_line(found[-1])}", style="red")
            if found[-1].advice:
                yield Text(f"  advice: {found[-1].advice}", style="yellow")

    def _more(self) -> Iterator[RenderableType]:
        if self._measured:
            values = "  ".join(f"{name} {value:.4g}" for name, value in sorted(self._measured.items()))
            yield Text(values, style="dim")
        if self._lines:
            yield Text("")
        for line in self._lines:
            yield Text(log_line(line), style="dim" if line.is_stderr else "", no_wrap=True, overflow="ellipsis")


def bar(fraction: float) -> str:
    """A progress bar of ten characters, in eighths."""
    eighths = round(min(max(fraction, 0.0), 1.0) * _BAR * 8)
    part = " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return ("█" * (eighths // 8) + part).ljust(_BAR, "░")


def _rank(job: Job) -> tuple[bool, int]:
    return job.state in ENDED, -job.create_time.ToMicroseconds()
