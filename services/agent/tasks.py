"""The tasks of arrays on this node: many alike processes, started in batches, their ends told in batches."""

import asyncio
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from chassis.logs import logger
from chassis.task_runs import unpacked
from lepton.errors import InvalidArgument, LeptonError
from lepton.internal.v1 import node_session_pb2 as pb
from lepton.names import WorkloadName
from services.agent.array_secrets import ArraySecrets
from services.agent.launcher import Exit
from services.agent.processes import CannotRun, Warden
from services.agent.runner import Surroundings
from services.agent.secrets import Given, Secrets, no_secrets
from services.agent.task import Slice, Task
from services.agent.task_array import TaskArray, command_of
from services.agent.task_outbox import TaskOutbox

log = logger(__name__)
STALE: Final = "stale"
_NOT_FOUND: Final = 127  # as a shell says it
_TOGETHER: Final = 200  # tasks in one order to the warden
_AHEAD: Final = 400  # tasks that the warden has and has not begun
_REMEMBERED: Final = 20_000  # ended tasks that a late message may still be about


class Tasks:
    """All tasks here; leaving the block kills them."""

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        root: Path,
        inherited: Mapping[str, str],
        warden: Warden,
        secrets: Secrets | None = None,
    ) -> None:
        self.outbox = TaskOutbox()
        self._secrets = secrets or no_secrets()
        self._surroundings, self._root, self._inherited, self._warden = surroundings, root, inherited, warden
        self._arrays: dict[str, TaskArray] = {}  # by uid
        self._named: dict[str, str] = {}  # workload -> uid
        self._by_id: dict[str, Task] = {}  # those that the warden has
        self._to_order: dict[ArraySecrets, list[Task]] = {}  # of one generation of an array
        self._ended: dict[Task, None] = {}  # the oldest first
        self._ahead = 0
        self._live = 0
        self._number = 0
        self._has_work, self._is_idle = asyncio.Event(), asyncio.Event()
        self._is_idle.set()
        self._ordering: asyncio.Task[None] | None = None
        self._clearing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._root.mkdir, parents=True, exist_ok=True)
        self._ordering = asyncio.create_task(self._order_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill_all()
        if self._ordering is not None:
            self._ordering.cancel()
        await asyncio.gather(*self._clearing, *filter(None, [self._ordering]), return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs."""
        return not self._live

    # What the scheduler says.

    def start(self, message: pb.StartTasks) -> None:
        """Start what does not run yet; the same message may come many times."""
        try:
            array = self._array(message)
        except InvalidArgument as error:
            log.error("an order that cannot be read", workload=message.workload, why=str(error))
            return
        if message.generation < array.generation:
            return
        array.generation = message.generation
        runs = [*unpacked(message.tasks.runs)]
        width = len(message.tasks.devices) // len(runs) if runs else 0
        for at, (position, serial) in enumerate(runs):
            known = array.tasks.get(position)
            if known is not None and known.serial == serial:
                self._known(known, message.generation)
                continue
            if known is not None:
                self._stop([known], 0.0, "replaced")  # never two at once
            task = Task(message.workload, message.generation, position, serial)
            task.devices = tuple(message.tasks.devices[at * width : (at + 1) * width])
            array.tasks[position] = task
            self._begin(array, task)
        self.outbox.seen(message.workload, message.generation, message.serial)

    def reconcile(self, messages: Iterable[pb.StartTasks]) -> None:
        """A session has begun: run exactly what is listed."""
        listed: set[tuple[str, int, int]] = set()
        for message in messages:
            self.start(message)
            listed |= {(message.workload, *each) for each in unpacked(message.tasks.runs)}
        gone = [each for each in self._alive() if (each.workload, each.position, each.serial) not in listed]
        self._stop(gone, 0.0, "not assigned any more")

    def stop(self, message: pb.StopSlices) -> bool:
        """Stop all tasks of a generation; false when it is about no array that is known here."""
        array = self._arrays.get(self._named.get(message.workload, ""))
        if array is None:
            return False
        mine = [each for each in array.tasks.values() if each.generation == message.generation]
        if message.reason == STALE:
            for each in mine:
                each.is_unwanted = True
            self.outbox.drop(message.workload, message.generation)
            self._stop([each for each in mine if not each.is_over], 0.0, "killed")
            return True
        self._stop([each for each in mine if not each.is_over], message.grace_s, message.reason)
        return True

    def stop_some(self, message: pb.StopSlices) -> None:
        """Stop the tasks that are named; also those of which nothing is known here are reported to have stopped."""
        array = self._arrays.get(self._named.get(message.workload, ""))
        told: list[Task] = []
        for position, serial in unpacked(message.tasks.runs):
            known = array.tasks.get(position) if array is not None else None
            if known is None or known.serial != serial:
                never = Task(message.workload, message.generation, position, serial)
                never.state, never.message = Slice.STOPPED, "it was never started here"
                self.outbox.put(never)
            elif known.is_over:
                self.outbox.put(known)
            else:
                told.append(known)
        self._stop(told, message.grace_s, message.reason)

    async def stop_all(self, grace_s: float, reason: str) -> None:
        """Stop everything in good order; returns once nothing runs."""
        self._stop(self._alive(), grace_s, reason)
        await self._is_idle.wait()

    async def kill_all(self) -> None:
        """Kill everything at once and forget that it ever was; returns once nothing runs."""
        for array in self._arrays.values():
            for each in array.tasks.values():
                each.is_unwanted = True
        self._stop(self._alive(), 0.0, "killed")
        await self._is_idle.wait()
        for array in self._arrays.values():
            array.secrets.close()
        for known in (self._arrays, self._named, self._to_order, self._ended):
            known.clear()
        self.outbox.clear()

    # What the warden says.

    def began(self, task: str) -> None:
        """Its process runs."""
        self._ahead -= 1
        each = self._by_id[task]
        each.state = Slice.RUNNING
        if each.stopped:  # told while it was on its way
            self._warden.kill_tasks([task], signal.SIGKILL)
        self._has_work.set()

    def ended(self, task: str, ended: Exit | None, words: str, *, has_files: bool) -> None:
        """Its process has ended, or was never started."""
        each = self._by_id.pop(task)
        if each.state == Slice.STARTING:
            self._ahead -= 1
            self._has_work.set()
        if has_files:
            clearing = asyncio.create_task(asyncio.to_thread(shutil.rmtree, self._root / task, ignore_errors=True))
            self._clearing.add(clearing)
            clearing.add_done_callback(self._clearing.discard)
        code = 0
        if ended is not None:
            code = ended.code if ended.code is not None else -(ended.signal or signal.SIGKILL)
        if each.secrets is not None:
            words = each.secrets.given.mask.cut(words)
        if each.stopped:
            self._end(each, Slice.STOPPED, code, each.stopped)
        elif ended is None:
            self._end(each, Slice.FAILED, _NOT_FOUND, words)
        elif code == 0:
            self._end(each, Slice.SUCCEEDED)
        else:
            how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
            self._end(each, Slice.FAILED, code, f"{words} ({how})" if words else how)

    def lost(self) -> None:
        """The warden has died, and with it all of them."""
        self._ahead = 0
        for task in [*self._by_id]:
            each = self._by_id.pop(task)
            state = Slice.STOPPED if each.stopped else Slice.FAILED
            self._end(each, state, -signal.SIGKILL, each.stopped or "the node's warden has died")

    # How they are started and stopped.

    def _array(self, message: pb.StartTasks) -> TaskArray:
        known = self._arrays.get(message.workload_uid)
        if known is not None and message.generation <= known.generation:
            return known
        run = command_of(message, self._surroundings, self._inherited)
        secrets = ArraySecrets(
            self._secrets,
            message.program.secrets,
            workload=message.workload,
            workload_uid=message.workload_uid,
            generation=message.generation,
        )
        array = self._arrays.setdefault(
            message.workload_uid,
            TaskArray(message.workload_uid, message.workload, message.first_index, run, secrets),
        )
        array.command, array.secrets = run, secrets
        self._named[message.workload] = message.workload_uid
        log.info("array", workload=message.workload, generation=message.generation, tasks=message.task_count)
        return array

    def _known(self, task: Task, generation: int) -> None:
        """It runs, or has run, already: what is said of it is said under the newest generation."""
        if task.generation != generation:
            self.outbox.withdraw(task)
            task.generation = generation
        if task.is_over:
            self.outbox.put(task)  # an ended task is never started again

    def _begin(self, array: TaskArray, task: Task) -> None:
        self._live += 1
        self._is_idle.clear()
        if array.command.refusal:
            self._end(task, Slice.FAILED, 0, array.command.refusal)
            return
        task.secrets = array.secrets
        task.secrets.users += 1
        task.secrets.fetch(self._has_work.set)
        self._to_order.setdefault(array.secrets, []).append(task)
        self._has_work.set()

    async def _order_for_ever(self) -> None:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._ahead < _AHEAD:
                secrets = next((each for each in self._to_order if each.is_ready), None)
                if secrets is None:
                    break
                waiting = self._to_order[secrets]
                part = [each for each in waiting[:_TOGETHER] if not each.is_over]
                del waiting[:_TOGETHER]
                if not waiting:
                    del self._to_order[secrets]
                if part and secrets.refusal:
                    for each in part:
                        self._end(each, Slice.FAILED, 0, secrets.refusal)
                elif part:
                    await self._order(self._arrays[secrets.uid], part, secrets.given)

    async def _order(self, array: TaskArray, part: list[Task], given: Given) -> None:
        uuids = self._surroundings.device_uuids
        named: list[tuple[str, dict[str, str]]] = []
        for each in part:
            self._number += 1
            each.id = f"{array.uid}.{each.position}.{self._number}"
            self._by_id[each.id] = each
            own = {"LEPTON_ARRAY_INDEX": str(array.first_index + each.position)}
            if each.devices:
                own["CUDA_VISIBLE_DEVICES"] = ",".join(uuids[index] for index in each.devices if index in uuids)
            named.append((each.id, own))
        self._ahead += len(part)
        try:
            await self._surroundings.artifacts_ready(WorkloadName.parse(array.workload).project)
            await self._warden.start_tasks(
                named,
                array.command.argv,
                environment={**array.command.environment, **given.environment},
                root=self._root,
                listener=self,
            )
        except (CannotRun, LeptonError, OSError) as error:
            self._ahead -= len(part)
            for each in part:
                if self._by_id.pop(each.id, None) is not None:
                    self._end(each, Slice.FAILED, 0, f"cannot start: {error}")

    def _stop(self, tasks: Iterable[Task], grace_s: float, reason: str) -> None:
        told: list[str] = []
        for each in tasks:
            if each.is_over:
                continue
            if not each.stopped:
                each.stopped = reason or "stopped"
            if not each.id:
                self._end(each, Slice.STOPPED, 0, each.stopped)  # not ordered yet
            else:
                told.append(each.id)
        self._signal(told, signal.SIGKILL if grace_s <= 0 else signal.SIGTERM)
        if told and grace_s > 0:
            asyncio.get_running_loop().call_later(grace_s, self._signal, told, signal.SIGKILL)

    def _signal(self, ids: list[str], number: signal.Signals) -> None:
        live = [each for each in ids if each in self._by_id]
        for start in range(0, len(live), _TOGETHER):
            self._warden.kill_tasks(live[start : start + _TOGETHER], number)

    def _end(self, task: Task, state: Slice.State.ValueType, exit_code: int = 0, message: str = "") -> None:
        task.state, task.exit_code, task.message = state, exit_code, message
        self._live -= 1
        if task.secrets is not None:
            task.secrets.release()
        if not task.is_unwanted:
            self.outbox.put(task)
        if not self._live:
            self._is_idle.set()
        self._ended[task] = None
        while len(self._ended) > _REMEMBERED:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._forget(oldest)

    def _forget(self, task: Task) -> None:
        uid = self._named.get(task.workload, "")
        array = self._arrays.get(uid)
        if array is None or array.tasks.get(task.position) is not task:
            return
        del array.tasks[task.position]
        if not array.tasks:
            array.secrets.close()
            del self._arrays[uid], self._named[task.workload]

    def _alive(self) -> list[Task]:
        return [each for each in self._every() if not each.is_over]

    def _every(self) -> Iterator[Task]:
        for array in self._arrays.values():
            yield from array.tasks.values()
