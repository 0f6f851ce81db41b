"""The states of slices on their way to the scheduler: the newest of each slice, kept until it is stored."""

import asyncio

from lepton.internal.v1 import node_session_pb2 as pb
from lepton.scheduler.v1 import workload_pb2
from services.agent.order import SliceKey


class Outbox:
    """What the scheduler has not acknowledged yet."""

    def __init__(self) -> None:
        self._reports: dict[SliceKey, pb.SliceReport] = {}
        self._unsent: dict[SliceKey, None] = {}  # a set in order
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    def put(self, key: SliceKey, report: pb.SliceReport) -> None:
        """Report a state; it replaces what was to be said about the slice before."""
        self._reports[key] = report
        self._unsent[key] = None
        self._drained.clear()
        self._changed.set()

    def take(self) -> list[pb.SliceReport]:
        """What has not gone out on the present stream; it counts as sent from now on."""
        taken = [self._reports[key] for key in self._unsent]
        self._unsent.clear()
        self._changed.clear()
        return taken

    def take_all(self) -> dict[SliceKey, pb.SliceReport]:
        """Everything that is not acknowledged, for the beginning of a stream."""
        self._unsent.clear()
        self._changed.clear()
        return dict(self._reports)

    def resend(self) -> None:
        """Send what is not acknowledged once more on the present stream."""
        self._unsent = dict.fromkeys(self._reports)
        if self._unsent:
            self._changed.set()

    def acknowledge(self, key: SliceKey, state: workload_pb2.Slice.State.ValueType) -> None:
        """The scheduler has stored this state."""
        report = self._reports.get(key)
        if report is not None and key not in self._unsent and report.slice.state == state:
            self.drop(key)

    def drop(self, key: SliceKey) -> None:
        """Nobody wants to know about this slice any more."""
        self._reports.pop(key, None)
        self._unsent.pop(key, None)
        if not self._reports:
            self._drained.set()

    def clear(self) -> None:
        """Forget everything: what was run is dead, and the scheduler counts it as lost."""
        for key in list(self._reports):
            self.drop(key)

    async def changed(self) -> None:
        """Returns once there is something to send."""
        await self._changed.wait()

    async def drained(self) -> None:
        """Returns once everything is acknowledged."""
        await self._drained.wait()
