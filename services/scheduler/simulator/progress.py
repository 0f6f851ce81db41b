"""How far a job has come: work left, what is safe in a checkpoint, and what was lost."""

from dataclasses import dataclass, field

from services.scheduler.simulator.job import Job
from services.scheduler.snapshot import State


@dataclass(slots=True, kw_only=True)
class Progress:
    """One job's work. Between two changes of its rate it goes on evenly."""

    job: Job
    left_s: float  # of work, as of `since`
    saved_s: float  # of work left, as of the last checkpoint
    since: float
    rate: float = 0.0
    epoch: int = 0  # counts the changes of its rate
    slices: int = 0  # that are up
    waiting_since: float | None = None  # without a place
    waited_s: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None  # all its work was done
    outcome: State | None = None  # what the planner has said in the end
    starts: int = 0
    done_s: float = 0.0  # work that was done, also what was lost
    lost_s: float = 0.0  # work that was done and had to be done again
    revoked: list[str] = field(default_factory=list)  # why its generations were stopped

    @classmethod
    def of(cls, job: Job) -> "Progress":
        """Nothing is done yet."""
        return cls(job=job, left_s=job.work_s, saved_s=job.work_s, since=job.at, waiting_since=job.at)

    def advance(self, now: float) -> None:
        """Count the work done until now."""
        if self.rate:
            done_s = min(self.left_s, self.rate * (now - self.since))
            self.left_s -= done_s
            self.done_s += done_s
        self.since = now

    def go(self, now: float, slices: int) -> float | None:
        """Go on with so many slices up; when it will be done, None if it stands still."""
        self.advance(now)
        self.slices = slices
        self.rate = self.job.rate(slices)
        self.epoch += 1
        return now + self.left_s / self.rate if self.rate else None

    def save(self, now: float) -> None:
        """All that is done is safe."""
        self.advance(now)
        self.saved_s = self.left_s

    def fall_back(self, now: float) -> None:
        """What is not safe is lost."""
        self.advance(now)
        self.lost_s += self.saved_s - self.left_s
        self.left_s = self.saved_s

    def place(self, now: float) -> None:
        """It has places."""
        self.starts += 1
        if self.started_at is None:
            self.started_at = now
        if self.waiting_since is not None:
            self.waited_s += now - self.waiting_since
            self.waiting_since = None

    def displace(self, now: float) -> None:
        """It has none any more."""
        if self.waiting_since is None:
            self.waiting_since = now

    def finish(self, now: float) -> None:
        """All work is done."""
        self.go(now, 0)
        if self.left_s > 1e-6 * max(1.0, self.job.work_s):
            raise ValueError(f"{self.job.name} ends with {self.left_s} s of work left")
        self.left_s = self.saved_s = 0.0
        self.ended_at = now
