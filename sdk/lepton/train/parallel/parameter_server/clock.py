"""Who may begin a step: the steps that each worker has made, and the slowest of them; pure."""


class Clock:
    """Counts the workers' steps. A worker that leaves counts no more; one that joins starts where the slowest is."""

    def __init__(self, *, workers: int, max_staleness: int) -> None:
        """`workers` are expected: before all of them have joined once, nobody begins."""
        self._expected, self._max_staleness = workers, max_staleness
        self._steps: dict[int, int] = {}
        self._seen: set[int] = set()
        self._slowest = 0
        self.furthest = 0  # the most that a worker was ever ahead of the slowest when it began a step

    def join(self, worker: int) -> int:
        """A worker has come, or come back; the step that it starts from."""
        self._steps.pop(worker, None)
        self._steps[worker] = self.slowest
        self._seen.add(worker)
        return self._steps[worker]

    def leave(self, worker: int) -> None:
        """A worker is gone: nobody waits for it."""
        self._slowest = self.slowest
        self._steps.pop(worker, None)

    def tick(self, worker: int) -> int:
        """A worker has made a step; how many that makes."""
        self._steps[worker] += 1
        return self._steps[worker]

    @property
    def slowest(self) -> int:
        """The steps of the slowest worker; without any, where the last ones were."""
        return max(min(self._steps.values(), default=self._slowest), self._slowest)

    @property
    def present(self) -> frozenset[int]:
        """The workers that are here."""
        return frozenset(self._steps)

    def may_begin(self, worker: int, max_staleness: int | None = None) -> bool:
        """Whether a worker may begin its next step."""
        bound = self._max_staleness if max_staleness is None else max_staleness
        return len(self._seen) >= self._expected and self._steps[worker] - self.slowest <= bound

    def begin(self, worker: int) -> None:
        """A worker begins a step."""
        self.furthest = max(self.furthest, self._steps[worker] - self.slowest)
