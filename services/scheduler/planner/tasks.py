"""The tasks of an array: what has become of those that ran, which are to be placed next, and what is written of it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from services.scheduler.lifecycle import FINAL, backoff_s
from services.scheduler.planner.decision import Placement, Tasks
from services.scheduler.planner.standing import Standing
from services.scheduler.snapshot import Assignment, Returned, Slice, SliceState, Snapshot, TaskArray, Workload

_AGAIN: Final = frozenset({SliceState.STOPPED, SliceState.LOST})  # not their own fault


class TaskDraft:
    """The draft of what becomes of an array's tasks in one cycle."""

    def __init__(self, workload: Workload, now: float) -> None:
        assert workload.array is not None
        self.failed: list[Slice] = []  # for good, now
        self.dropped: set[int] = set()  # positions that leave the generation that goes on
        self.lost: list[Slice] = []  # of these, the ones that the quotas still count
        self.live: list[Slice] = []  # what the generation that goes on keeps
        self.added: list[Slice] = []
        self.others = 0  # how many of earlier generations are being stopped
        self.base: Assignment | None = None  # the generation that goes on
        self.is_revoked = False
        self._array: TaskArray = workload.array
        self._most = workload.groups[0].max_count
        self._max_restarts = workload.max_restarts
        self._now = now
        self._succeeded = workload.array.succeeded
        self._placed = workload.array.placed
        self._returned = {each.position: each for each in workload.array.returned}
        self._busy: set[int] | None = None
        self._elsewhere: set[int] = set()

    # What has become of those that ran.

    def fold(self, slices: Iterable[Slice]) -> None:
        """These have ended, and leave their generation."""
        for each in slices:
            if each.state is SliceState.SUCCEEDED:
                self._succeeded += 1
                self._returned.pop(each.index, None)
                continue
            before = self._returned.get(each.index)
            failures = before.failures if before is not None else 0
            if each.state in _AGAIN:
                self._returned[each.index] = before or Returned(each.index, 0, 0.0)
            elif failures >= self._max_restarts:
                self.failed.append(each)
                self._returned.pop(each.index, None)
            else:
                self._returned[each.index] = Returned(each.index, failures + 1, self._now + backoff_s(failures + 1))

    def go_on(self, standing: Standing) -> None:
        """This generation is wanted: what has ended of it is folded, the rest stays."""
        self.base = standing.assignment
        ended: list[Slice] = []
        for before, each in zip(standing.assignment.slices, standing.slices, strict=True):
            if each.state not in FINAL:
                self.live.append(each)
                continue
            ended.append(each)
            if before.state not in FINAL:
                self.lost.append(before)
        self.dropped.update(each.index for each in ended)
        self.fold(ended)

    def stops_elsewhere(self, standing: Standing, handed_over: frozenset[int]) -> None:
        """An earlier generation that is being stopped: its tasks are not placed again before it is over."""
        self.others += standing.running
        self._elsewhere.update(each.index for each in standing.slices if each.index not in handed_over)

    # Which are to be placed.

    @property
    def left(self) -> int:
        """How many have not ended for good."""
        return self._array.left - (self._succeeded - self._array.succeeded) - len(self.failed)

    @property
    def failures(self) -> int:
        """How many have failed for good."""
        return self._array.failed + len(self.failed)

    def due(self) -> int:
        """How many could be placed now, if there were room."""
        if self.is_revoked:
            return 0
        waiting = self._array.count - self._placed + len(self._coming_back())
        return max(0, min(waiting, self._most - len(self.live) - len(self.added) - self.others))

    def wake_at(self) -> float | None:
        """When the backoff of the next one is over."""
        busy = self._held()
        later = (each.not_before for each in self._returned.values() if each.position not in busy)
        return min((each for each in later if each > self._now), default=None)

    def add(self, places: Sequence[tuple[str, tuple[int, ...]]], group: str) -> None:
        """The next tasks are placed here: node and devices of each."""
        positions = sorted(self._coming_back())[: len(places)]
        fresh = len(places) - len(positions)
        positions += range(self._placed, self._placed + fresh)
        self._placed += fresh
        for position, (node, devices) in zip(positions, places, strict=True):
            self.added.append(Slice(index=position, group=group, node=node, devices=devices))
            before = self._returned.get(position)
            if before is not None and not before.failures:
                del self._returned[position]
        if self._busy is not None:
            self._busy.update(positions)

    def _coming_back(self) -> list[int]:
        if not self._returned:
            return []
        busy, now = self._held(), self._now
        return [at for at, each in self._returned.items() if each.not_before <= now and at not in busy]

    def _held(self) -> set[int]:
        """Those that are somewhere already."""
        if self._busy is None:
            self._busy = {each.index for each in self.live} | {each.index for each in self.added} | self._elsewhere
        return self._busy

    # What is written.

    @property
    def has_changed(self) -> bool:
        """Whether anything about the tasks is to be written."""
        return bool(self.added or self.dropped or self.failed or self._succeeded != self._array.succeeded)

    def array(self) -> TaskArray:
        """How they stand afterwards."""
        return TaskArray(
            count=self._array.count,
            placed=self._placed,
            returned=tuple(self._returned[at] for at in sorted(self._returned)),
            succeeded=self._succeeded,
            failed=self.failures,
        )

    def finish(self, placement: Placement | None, snapshot: Snapshot) -> tuple[Tasks, Placement | None]:
        """What is decided about them, and the new generation, if there is one, with what it has in the end."""
        if placement is None:
            live = [*self.live, *self.added]
        elif placement.kept or self.base is not None:  # made smaller: it goes on as another generation
            live = [each for each in placement.slices if each.index not in self.dropped]
            placement = replace(placement, kept=placement.kept - self.dropped)
        else:
            live = self.added
        live = sorted(live, key=lambda each: each.index)
        sessions = dict(self.base.sessions) if self.base is not None else {}
        sessions |= {each.node: snapshot.nodes[each.node].session for each in self.added}
        nodes = {each.node for each in live}
        kept = tuple((node, sessions[node]) for node in sorted(nodes))
        if placement is not None:
            placement = replace(placement, slices=tuple(live), sessions=kept)
        tasks = Tasks(
            array=self.array(),
            live=tuple(live),
            added=frozenset(each.index for each in self.added),
            dropped=frozenset(self.dropped),
            failed=tuple(self.failed),
            sessions=kept,
            base=self.base.generation if self.base is not None else 0,
            revision=self.base.revision if self.base is not None else 0,
            is_amended=bool(self.dropped or (self.added and placement is None)),
        )
        return tasks, placement
