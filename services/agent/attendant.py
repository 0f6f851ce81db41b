"""The time between a process's start and its end: its output, its reports, its stop, and what is said of its end."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.logs import logger
from lepton.errors import InvalidArgument
from lepton.internal.v1 import run_report_pb2
from lepton.scheduler.v1 import workload_pb2
from services.agent import rank_line
from services.agent.cause import Cause, Evidence, judge
from services.agent.journal import Journal, Refusal
from services.agent.launcher import Exit
from services.agent.output import Tail, lines
from services.agent.runner import Ending, SliceControl
from services.agent.secret_mask import NOTHING, Mask
from services.agent.watchdog import Watchdog, catches

log = logger(__name__)

Slice = workload_pb2.Slice
EXIT_STOPPED: Final = 75  # lepton.train.EXIT_STOPPED, whose module must not be imported here
_HEARD_S: Final = 0.5
_LAST_RESORT: Final = 0.8  # of the grace: then SIGTERM also to a process that said it would stop
_PIPES_S: Final = 1.0  # for the pipes of a process that has ended
_DRAIN_S: Final = 15.0
_DRAIN_STOPPED_S: Final = 2.0
_DRAIN_FAILED_S: Final = 1.0  # a failure is news, and its gang waits to go on; its last lines may come later
_MOST_OF_A_FILE: Final = 1 << 20


class Attended(Protocol):
    """A running process: a rank of the launcher, or a process of our own."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> asyncio.StreamReader: ...
    @property
    def stderr(self) -> asyncio.StreamReader: ...
    @property
    def exited(self) -> asyncio.Future[Exit]: ...
    def reports(self) -> AsyncIterator[Mapping[str, Any]]: ...
    async def ack(self, commit_id: str) -> None: ...
    async def nack(self, commit_id: str, reason: str) -> None: ...
    async def stop(self, deadline_s: float) -> None: ...
    def unheard(self) -> int: ...
    def kill(self, number: int = signal.SIGKILL) -> None: ...
    def close(self) -> None: ...


class Attendant:
    """Attends one process. With a journal all goes to the trainer; without one the last output is kept."""

    def __init__(
        self,
        process: Attended,
        control: SliceControl,
        *,
        journal: Journal | None,
        error_file: Path | None = None,
        node: str = "",
        hang_timeout_s: float = 0.0,
        mask: Mask = NOTHING,
    ) -> None:
        self._process, self._control, self._journal = process, control, journal
        self._mask = mask
        self._error_file, self._node = error_file, node
        self._tail = Tail()
        self._watchdog = Watchdog(
            process,
            self._tail,
            timeout_s=hang_timeout_s,
            is_held_up=lambda: journal is not None and journal.is_full,  # by a trainer that is away
        )

    async def attend(self) -> Ending:
        """Returns when the process has ended and what it said is delivered; cancellation kills it first."""
        process = self._process
        try:
            async with asyncio.TaskGroup() as tasks:
                streams = [
                    tasks.create_task(self._relay(process.stdout, is_stderr=False)),
                    tasks.create_task(self._relay(process.stderr, is_stderr=True)),
                    tasks.create_task(self._listen()),
                ]
                others = [tasks.create_task(self._stop()), tasks.create_task(self._watchdog.watch())]
                ended = await asyncio.shield(process.exited)
                noticed, was_asked = _now(), self._control.stop.is_asked
                for each in others:
                    each.cancel()
                await asyncio.wait(streams, timeout=_PIPES_S)  # something it left behind may hold them open
                for stream in streams:
                    stream.cancel()
        finally:
            process.kill()
            await asyncio.shield(process.exited)
            process.close()
        ending, cause = self._ending(ended, was_asked, noticed)
        if self._journal is not None:
            await self._deliver(self._journal, ending, cause)
        return ending

    async def _relay(self, pipe: asyncio.StreamReader, *, is_stderr: bool) -> None:
        async for line in lines(pipe, self._mask):
            self._tail.add(line, is_stderr)
            if self._journal is not None:
                said = run_report_pb2.OutputLine(text=line, is_stderr=is_stderr)
                await self._journal.add(run_report_pb2.RunEvent(output=said))

    async def _listen(self) -> None:
        async with asyncio.TaskGroup() as answers:
            try:
                async for line in self._process.reports():
                    answer = await self._take(line)
                    if answer is not None:
                        answers.create_task(self._answer(str(line["id"]), answer))
            except ConnectionError:
                return  # it ended with answers unread
            except ValueError as error:  # not JSON, or a line without an end
                self._tail.add(f"the report channel is broken: {error}", is_stderr=True)
                self._process.kill()

    async def _take(self, line: Mapping[str, Any]) -> asyncio.Future[Refusal | None] | None:
        try:
            line = self._mask.document(line)
            meant = rank_line.read(line)
        except InvalidArgument as error:
            log.warning("report refused", why=str(error))
            if "id" in line:
                await self._process.nack(str(line["id"]), str(error))
            return None
        self._note(line)
        if isinstance(meant, rank_line.Output):
            self._control.output(meant.name, meant.digest)
        elif self._journal is None:
            if meant.commit_id:
                await self._process.ack(meant.commit_id)  # nobody keeps count of it
            elif meant.event.HasField("phase"):
                self._control.running(meant.event.phase)  # what it does is the slice's state in words
        elif meant.commit_id:
            return await self._journal.submit(meant.event)
        elif meant.event.HasField("pace"):
            meant.event.pace.node = self._node
            await self._journal.add(meant.event)
        else:
            await self._journal.add(meant.event)
        return None

    def _note(self, line: Mapping[str, Any]) -> None:
        """What a report says about how the rank gets on."""
        progress, now_s = self._watchdog.progress, self._watchdog.now_s
        if line["kind"] in ("metrics", "pace"):
            progress.stepped(int(line["step"]), now_s, float(line.get("step_s", 0.0)))
        if line.get("idle") or line.get("phase") in rank_line.PHASES_WITHOUT_STEPS:
            progress.rests()
        elif line["kind"] != "metrics" and line["kind"] != "pace":
            progress.said(now_s)

    async def _answer(self, commit_id: str, answer: asyncio.Future[Refusal | None]) -> None:
        refusal = await answer
        if refusal is None:
            await self._process.ack(commit_id)
        else:
            await self._process.nack(commit_id, f"{refusal.reason}: {refusal.message}")

    async def _stop(self) -> None:
        """Notice, then SIGTERM, then SIGKILL. SIGTERM comes first where it is understood or nobody hears the notice."""
        stop, process = self._control.stop, self._process
        await stop.asked()
        if stop.grace_s <= 0:
            process.kill()
            return
        await process.stop(stop.grace_s)
        waited_s = 0.0
        if not catches(process.pid, signal.SIGTERM):
            waited_s = min(_HEARD_S, stop.grace_s / 2)
            await asyncio.sleep(waited_s)
            if not process.unheard():
                await asyncio.sleep(stop.grace_s * _LAST_RESORT - waited_s)
                waited_s = stop.grace_s * _LAST_RESORT
        process.kill(signal.SIGTERM)
        await asyncio.sleep(stop.grace_s - waited_s)
        process.kill()

    def _ending(self, ended: Exit, was_asked: bool, noticed: Timestamp) -> tuple[Ending, Cause | None]:
        """How the slice ended, and why if that was badly: by itself, not because it was asked to."""
        exit_code = ended.code if ended.code is not None else -(ended.signal or signal.SIGKILL)
        if was_asked and self._watchdog.stall is None:
            return Ending(state=Slice.STOPPED, exit_code=exit_code, message=self._control.stop.reason), None
        if exit_code == 0:
            return Ending(state=Slice.SUCCEEDED), None
        if exit_code == EXIT_STOPPED:  # another rank was asked to stop, and they agreed
            return Ending(state=Slice.STOPPED, exit_code=exit_code, message="stopped with its gang"), None
        cause = judge(
            Evidence(
                exit_code=exit_code,
                own_words=self._own_words(),
                tail=self._tail.by_weight(),
                memory=self._watchdog.memory.end(ended.peak_bytes),
                stall=self._watchdog.stall,
                batch_size=self._batch_size(),
            )
        )
        failure = workload_pb2.SliceFailure(
            failure_class=cause.failure_class,
            step=self._watchdog.progress.step,
            time=noticed,
            suspects=cause.suspects,
            waited=self._watchdog.stall is not None and self._watchdog.stall.waited,
        )
        return Ending(state=Slice.FAILED, exit_code=exit_code, message=cause.message, failure=failure), cause

    def _own_words(self) -> str:
        """The error that the process left behind, in torch elastic's form."""
        message = _read_json(self._error_file).get("message", "")
        text = message.get("message", "") if isinstance(message, dict) else message
        return self._mask.text(str(text)).strip().replace("\n", " ")[:1000]

    def _batch_size(self) -> int:
        """Of the specification that lies beside the error file, if it says."""
        spec = None if self._error_file is None else self._error_file.with_name("spec.json")
        size = _read_json(spec).get("batch_size", 0)
        return size if isinstance(size, int) else 0

    async def _deliver(self, journal: Journal, ending: Ending, cause: Cause | None) -> None:
        if cause is not None and ending.failure is not None:
            failure = run_report_pb2.RankFailure(
                exit_code=ending.exit_code,
                message=ending.message,
                log_tail=self._tail.lines(),
                node=self._node,
                advice=cause.advice,
                step=ending.failure.step,
                suspects=ending.failure.suspects,
                waited=ending.failure.waited,
            )
            setattr(failure, "class", str(cause.failure_class))  # a keyword of Python
            await journal.add(run_report_pb2.RunEvent(failure=failure, time=ending.failure.time))
        stop = self._control.stop
        was_killed = stop.is_asked and stop.grace_s <= 0  # with its gang, which waits to go on
        patience_s = _DRAIN_S if ending.state == Slice.SUCCEEDED else _DRAIN_STOPPED_S
        try:
            async with asyncio.timeout(_DRAIN_FAILED_S if cause is not None or was_killed else patience_s):
                await journal.drained()
        except TimeoutError:
            log.warning("the trainer is behind; the rank's last events come later", job=journal.job, rank=journal.rank)


def _read_json(file: Path | None) -> dict[str, Any]:
    """What a rank has left in a file, if that is an object."""
    try:
        read = json.loads(file.read_bytes()[:_MOST_OF_A_FILE]) if file is not None else {}
    except (ValueError, OSError):
        return {}
    return read if isinstance(read, dict) else {}


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
