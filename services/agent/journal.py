"""The events of one rank on their way to the trainer: numbered, kept until they are acknowledged, bounded."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from lepton.internal.v1 import run_report_pb2 as pb

_BATCH_EVENTS: Final = 512
_BATCH_BYTES: Final = 512 << 10
_PATIENT: Final = frozenset({"measurement", "pace"})
"""They come with every few steps, for ever, and each costs the control plane as much as it says itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the trainer refused an event."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class _Entry:
    event: pb.RunEvent
    size: int


class Journal:
    """One rank's events, in order. Whoever adds to a full journal waits: a chatty rank slows down, nothing is lost."""

    def __init__(
        self,
        job: str,
        generation: int,
        rank: int,
        *,
        wake: Callable[[], None],
        hurry: Callable[[], None] = lambda: None,
        wake_later: Callable[[], None] | None = None,
        most_bytes: int = 4 << 20,
    ) -> None:
        self.job, self.generation, self.rank = job, generation, rank
        self._wake, self._hurry, self._wake_later = wake, hurry, wake_later or wake
        self._most_bytes = most_bytes
        self._next = 1
        self._entries: deque[_Entry] = deque()  # not acknowledged
        self._sent = 0  # of them, how many went out on the present stream
        self._bytes = 0
        self._answers: dict[int, asyncio.Future[Refusal | None]] = {}
        self._changed = asyncio.Condition()
        self.is_closed = False  # nothing more will be added

    @property
    def is_empty(self) -> bool:
        """Whether everything is acknowledged."""
        return not self._entries

    @property
    def is_full(self) -> bool:
        """Whether whoever adds to it has to wait: the rank is held up, and it is not its fault."""
        return self._bytes >= self._most_bytes

    @property
    def has_unsent(self) -> bool:
        """Whether something has not gone out on the present stream."""
        return self._sent < len(self._entries)

    async def add(self, event: pb.RunEvent) -> None:
        """Take an event in; waits while the journal is full."""
        await self._add(event)

    async def submit(self, event: pb.RunEvent) -> asyncio.Future[Refusal | None]:
        """Take an event in; the future is done once the trainer has stored it, or has refused it."""
        answer: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        await self._add(event, answer)
        return answer

    async def drained(self) -> None:
        """Returns once everything is acknowledged."""
        if not self.is_empty:
            self._wake()
            self._hurry()
        async with self._changed:
            await self._changed.wait_for(lambda: self.is_empty)

    def batches(self) -> Iterable[pb.ReportRunRequest]:
        """What has not gone out yet, in messages of bounded size; it counts as sent from now on."""
        while self.has_unsent:
            chosen: list[pb.RunEvent] = []
            size = 0
            for position in range(self._sent, min(len(self._entries), self._sent + _BATCH_EVENTS)):
                entry = self._entries[position]
                if chosen and size + entry.size > _BATCH_BYTES:
                    break
                chosen.append(entry.event)
                size += entry.size
            self._sent += len(chosen)
            yield pb.ReportRunRequest(job=self.job, generation=self.generation, rank=self.rank, events=chosen)

    def close(self) -> None:
        """Nothing more will be added."""
        self.is_closed = True

    def rewind(self) -> None:
        """The stream broke: what was not acknowledged goes out again."""
        self._sent = 0

    async def acknowledge(self, sequence: int, refused: Sequence[pb.RefusedEvent]) -> None:
        """Everything up to `sequence` is stored, but for what was refused."""
        refusals = {event.sequence: Refusal(reason=event.reason, message=event.message) for event in refused}
        while self._entries and self._entries[0].event.sequence <= sequence:
            entry = self._entries.popleft()
            self._bytes -= entry.size
            self._sent = max(self._sent - 1, 0)
            answer = self._answers.pop(entry.event.sequence, None)
            if answer is not None and not answer.done():
                answer.set_result(refusals.get(entry.event.sequence))
        async with self._changed:
            self._changed.notify_all()

    async def _add(self, event: pb.RunEvent, answer: asyncio.Future[Refusal | None] | None = None) -> None:
        if not event.HasField("time"):
            event.time.GetCurrentTime()
        size = event.ByteSize() + 16
        async with self._changed:
            await self._changed.wait_for(lambda: self._bytes < self._most_bytes)
            event.sequence = self._next
            self._next += 1
            self._entries.append(_Entry(event, size))
            self._bytes += size
            if answer is not None:
                self._answers[event.sequence] = answer
            is_filling = self._bytes > self._most_bytes // 2
        if event.WhichOneof("event") in _PATIENT and not is_filling:
            self._wake_later()
            return
        if answer is not None or event.HasField("failure") or is_filling:
            self._hurry()  # somebody waits until it is stored
        self._wake()
