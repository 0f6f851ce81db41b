"""What is to be said of tasks, until the scheduler has stored it: gathered, so that one message tells of many."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from chassis.task_runs import packed
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.scheduler.v1 import workload_pb2

Slice = workload_pb2.Slice
_TOGETHER: Final = 2000  # ends in one message
_WORDS: Final = 300  # characters of each
_LATER_S: Final = 1.0  # for what the next report says as well


class Ended(Protocol):
    """A task of which something is to be said."""

    workload: str
    generation: int
    position: int
    serial: int
    state: Slice.State.ValueType
    exit_code: int
    message: str


_Key = tuple[str, int]  # workload, generation


@dataclass(slots=True)
class _Sent:
    sequence: int
    ends: list[Ended]
    serial: int


@dataclass(slots=True)
class _Array:
    """What is to be said of one generation."""

    seen: int = 0  # the largest serial that was taken up
    told: int = 0  # and the largest of which that is stored
    said: int = 0  # and the largest that was said on this stream
    unsent: dict[Ended, None] = field(default_factory=dict)
    sent: list[_Sent] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return not self.unsent and not self.sent and self.told >= self.seen


class TaskOutbox:
    """What the scheduler has not acknowledged yet."""

    def __init__(self) -> None:
        self._arrays: dict[_Key, _Array] = {}
        self._ready: dict[_Key, None] = {}  # those with something to send
        self._sequence = 0
        self._changed, self._drained = asyncio.Event(), asyncio.Event()
        self._drained.set()

    def seen(self, workload: str, generation: int, serial: int) -> None:
        """Everything that was placed up to this serial is taken up here."""
        array = self._of(workload, generation)
        if serial <= array.seen:
            return
        is_first, array.seen = not array.seen, serial
        self._drained.clear()
        if is_first:
            self._wake(workload, generation)
        else:  # the next end will say it too, and it is worth no report of its own before
            asyncio.get_running_loop().call_later(_LATER_S, self._say_seen, workload, generation, serial)

    def put(self, task: Ended) -> None:
        """A task has ended."""
        self._of(task.workload, task.generation).unsent[task] = None
        self._wake(task.workload, task.generation)

    def withdraw(self, task: Ended) -> None:
        """It is said under another generation."""
        array = self._arrays.get((task.workload, task.generation))
        if array is not None:
            array.unsent.pop(task, None)

    def take(self) -> list[pb.TaskReport]:
        """What has not gone out on the present stream; it counts as sent from now on."""
        self._changed.clear()
        ready, self._ready = self._ready, {}
        return [report for key in ready if key in self._arrays for report in self._reports(key, self._arrays[key])]

    def take_all(self) -> list[pb.TaskReport]:
        """Everything that is not acknowledged, for the beginning of a stream."""
        self.resend()
        return self.take()

    def resend(self) -> None:
        """Send what is not acknowledged once more."""
        for (workload, generation), array in self._arrays.items():
            for each in array.sent:
                array.unsent |= dict.fromkeys(each.ends)
            if array.sent or array.unsent or array.told < array.seen:
                array.sent.clear()
                array.said = array.told
                self._wake(workload, generation)

    def acknowledge(self, ack: pb.TaskReportAck) -> None:
        """The scheduler has stored this report, and those before it."""
        key = (ack.workload, ack.generation)
        array = self._arrays.get(key)
        if array is None:
            return
        for each in array.sent:
            if each.sequence <= ack.sequence:
                array.told = max(array.told, each.serial)
        array.sent = [each for each in array.sent if each.sequence > ack.sequence]
        self._settle()

    def drop(self, workload: str, generation: int) -> None:
        """Nobody wants to know about this generation any more."""
        self._arrays.pop((workload, generation), None)
        self._ready.pop((workload, generation), None)
        self._settle()

    def clear(self) -> None:
        """Forget everything: what was run is dead, and the scheduler counts it as lost."""
        self._arrays.clear()
        self._ready.clear()
        self._settle()

    async def changed(self) -> None:
        """Returns once there is something to send."""
        await self._changed.wait()

    async def drained(self) -> None:
        """Returns once everything is acknowledged."""
        await self._drained.wait()

    def _of(self, workload: str, generation: int) -> _Array:
        return self._arrays.setdefault((workload, generation), _Array())

    def _wake(self, workload: str, generation: int) -> None:
        self._ready[workload, generation] = None
        self._drained.clear()
        self._changed.set()

    def _say_seen(self, workload: str, generation: int, serial: int) -> None:
        array = self._arrays.get((workload, generation))
        if array is not None and array.said < serial:
            self._wake(workload, generation)

    def _settle(self) -> None:
        if all(array.is_done for array in self._arrays.values()):
            self._drained.set()

    def _reports(self, key: _Key, array: _Array) -> Iterable[pb.TaskReport]:
        ends = list(array.unsent)
        array.unsent.clear()
        while ends or array.said < array.seen:
            part, ends = ends[:_TOGETHER], ends[_TOGETHER:]
            self._sequence += 1
            array.said = array.seen
            array.sent.append(_Sent(self._sequence, part, array.seen))
            yield _report(key, self._sequence, part, array.seen)


def _report(key: _Key, sequence: int, ends: Iterable[Ended], seen: int) -> pb.TaskReport:
    report = pb.TaskReport(workload=key[0], generation=key[1], sequence=sequence)
    states = report.states
    states.seen_serial = seen
    succeeded: list[tuple[int, int]] = []
    for each in ends:
        if each.state == Slice.SUCCEEDED:
            succeeded.append((each.position, each.serial))
        else:
            states.ended.add(
                position=each.position,
                serial=each.serial,
                state=each.state,
                exit_code=each.exit_code,
                message=each.message[:_WORDS],
            )
    states.succeeded.extend(packed(sorted(succeeded)))
    return report
