"""TensorBoard's event files: one run folder for each job, which is gone on with where it stood."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from lepton.errors import FailedPrecondition
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import MetricPoint

_STATE: Final = "lepton.json"
_START: Final = 1  # of SessionLog.SessionStatus: what was written for later steps counts no more


class RunFolder:
    """The run of one job below a log directory. A context manager; what was added is on disk when it is left."""

    def __init__(self, log_directory: Path, job: Job) -> None:
        """Raises FailedPrecondition (EXTRA_MISSING without tensorboardX, RUN_FOLDER_TAKEN when it is another job's)."""
        self._library = _library()
        self.path = log_directory / job.name.rpartition("/")[2]
        self._job, self._written, self._files = job, False, 0
        state = self._state()
        if state.get("uid", job.uid) != job.uid:
            raise FailedPrecondition("RUN_FOLDER_TAKEN", folder=str(self.path), job=f"{state['job']} ({state['uid']})")
        self.offset: int = state.get("offset", 0)
        """Up to which measurement it is written; go on from here."""
        self._generation: int = state.get("generation", 0)
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            self._remember()

    def add(self, points: Iterable[MetricPoint], *, is_flushed: bool = True) -> None:
        """Writes measurements that are not there yet; when `is_flushed`, TensorBoard can see them at once."""
        for point in points:
            if point.offset > self.offset:
                self._write(point)
        if self._writer is not None and is_flushed:
            self._writer.flush()
            self._remember()

    def _write(self, point: MetricPoint) -> None:
        library, time_s = self._library, point.time.ToMicroseconds() / 1e6
        if self._writer is None:
            self._writer = self._open()
        if self._generation and point.generation > self._generation:
            # As a program does that was restarted from a checkpoint: TensorBoard drops what this generation does again.
            log = library.SessionLog(status=_START)
            self._writer.write_event(library.Event(session_log=log, step=point.step, wall_time=time_s))
        for name in sorted(point.values):
            summary = library.scalar(name, point.values[name])
            self._writer.write_event(library.Event(summary=summary, step=point.step, wall_time=time_s))
        self._generation, self.offset = point.generation, point.offset

    def _open(self) -> Any:
        self.path.mkdir(parents=True, exist_ok=True)
        # Two files of the same second would be one: the name that the library makes has no more than that.
        return self._library.EventsWriter(str(self.path / "events"), f".{secrets.token_hex(4)}")

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.path / _STATE).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _remember(self) -> None:
        state = {
            "job": self._job.name,
            "uid": self._job.uid,
            "offset": self.offset,
            "generation": self._generation,
        }
        aside = self.path / f".{_STATE}.{os.getpid()}"
        aside.write_text(json.dumps(state))
        aside.rename(self.path / _STATE)


class _Library:
    """What is used of tensorboardX."""

    def __init__(self) -> None:
        # Its SummaryWriter hands events to a thread and flushes without waiting for it: the records are written here.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self.EventsWriter, self.Event, self.SessionLog, self.scalar = EventsWriter, Event, SessionLog, scalar


def _library() -> _Library:
    try:
        return _Library()
    except ModuleNotFoundError as error:
        raise FailedPrecondition("EXTRA_MISSING", extra="plots", package=str(error.name)) from error
