"""The time between a process's start and its end: its output, its reports, its stop, and what is said of its end."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from chassis.logs import logger
from lepton.errors import InvalidArgument
from lepton.internal.v1 import run_report_pb2
from lepton.scheduler.v1 import workload_pb2
from services.agent import rank_line
from services.agent.journal import Journal, Refusal
from services.agent.launcher import Exit
from services.agent.output import Tail, lines
from services.agent.runner import Ending, SliceControl

log = logger(__name__)

Slice = workload_pb2.Slice
EXIT_STOPPED: Final = 75  # lepton.train.EXIT_STOPPED, whose module must not be imported here
_HEARD_S: Final = 0.5
_LAST_RESORT: Final = 0.8  # of the grace: then SIGTERM also to a process that said it would stop
_PIPES_S: Final = 1.0  # for the pipes of a process that has ended
_DRAIN_S: Final = 15.0
_DRAIN_FAILED_S: Final = 2.0  # a failure is news; its last lines may come later


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
        self, process: Attended, control: SliceControl, *, journal: Journal | None, error_file: Path | None = None
    ) -> None:
        self._process, self._control, self._journal = process, control, journal
        self._error_file = error_file
        self._tail = Tail()

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
                stopping = tasks.create_task(self._stop())
                ended = await asyncio.shield(process.exited)
                stopping.cancel()
                await asyncio.wait(streams, timeout=_PIPES_S)  # something it left behind may hold them open
                for stream in streams:
                    stream.cancel()
        finally:
            process.kill()
            await asyncio.shield(process.exited)
            process.close()
        ending = self._ending(ended)
        if self._journal is not None:
            await self._deliver(self._journal, ending)
        return ending

    async def _relay(self, pipe: asyncio.StreamReader, *, is_stderr: bool) -> None:
        async for line in lines(pipe):
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
            meant = rank_line.read(line)
        except InvalidArgument as error:
            log.warning("report refused", why=str(error))
            if "id" in line:
                await self._process.nack(str(line["id"]), str(error))
            return None
        if isinstance(meant, rank_line.Output):
            self._control.output(meant.name, meant.digest)
        elif self._journal is None:
            if meant.commit_id:
                await self._process.ack(meant.commit_id)  # nobody keeps count of it
        elif meant.commit_id:
            return await self._journal.submit(meant.event)
        else:
            await self._journal.add(meant.event)
        return None

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
        if not catches_sigterm(process.pid):
            waited_s = min(_HEARD_S, stop.grace_s / 2)
            await asyncio.sleep(waited_s)
            if not process.unheard():
                await asyncio.sleep(stop.grace_s * _LAST_RESORT - waited_s)
                waited_s = stop.grace_s * _LAST_RESORT
        process.kill(signal.SIGTERM)
        await asyncio.sleep(stop.grace_s - waited_s)
        process.kill()

    def _ending(self, ended: Exit) -> Ending:
        exit_code = ended.code if ended.code is not None else -(ended.signal or signal.SIGKILL)
        if self._control.stop.is_asked:
            return Ending(state=Slice.STOPPED, exit_code=exit_code, message=self._control.stop.reason)
        if exit_code == 0:
            return Ending(state=Slice.SUCCEEDED)
        if exit_code == EXIT_STOPPED:  # another rank was asked to stop, and they agreed
            return Ending(state=Slice.STOPPED, exit_code=exit_code, message="stopped with its gang")
        how = f"exit code {exit_code}" if exit_code > 0 else f"killed by {signal.Signals(-exit_code).name}"
        why = self._own_words() or self._tail.last_words()
        return Ending(state=Slice.FAILED, exit_code=exit_code, message=f"{why} ({how})" if why else how)

    def _own_words(self) -> str:
        """The error that the process left behind, in torch elastic's form."""
        if self._error_file is None or not self._error_file.exists():
            return ""
        try:
            message = json.loads(self._error_file.read_bytes()[: 1 << 20])["message"]
            text = message["message"] if isinstance(message, dict) else message
        except (ValueError, KeyError, OSError):
            return ""
        return str(text).strip().replace("\n", " ")[:1000]

    async def _deliver(self, journal: Journal, ending: Ending) -> None:
        has_failed = ending.state == Slice.FAILED
        if has_failed:
            failure = run_report_pb2.RankFailure(
                exit_code=ending.exit_code, message=ending.message, log_tail=self._tail.lines()
            )
            await journal.add(run_report_pb2.RunEvent(failure=failure))
        try:
            async with asyncio.timeout(_DRAIN_FAILED_S if has_failed or self._control.stop.is_asked else _DRAIN_S):
                await journal.drained()
        except TimeoutError:
            log.warning("the trainer is behind; the rank's last events come later", job=journal.job, rank=journal.rank)


def catches_sigterm(pid: int) -> bool:
    """Whether a process does something of its own on SIGTERM; false when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
