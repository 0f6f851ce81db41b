"""Runs torch programs: the ranks of a gang, from the warm launcher or cold, under torchrun's contract."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.failures import FailureClass
from lepton.artifacts import ArtifactStore
from lepton.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    LeptonError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from lepton.internal.v1.run_report_pb2 import RankFailure, RunEvent, StartRunRequest, StartRunResponse
from lepton.scheduler.v1 import workload_pb2
from services.agent.attendant import Attendant, Attended
from services.agent.cold_ranks import ColdRanks
from services.agent.confinement import NO_CORE, Confinement
from services.agent.environment import checked, checked_argv, rank_variables, slice_variables, visible_devices
from services.agent.isolation import Isolation, Share
from services.agent.journal import Journal
from services.agent.launcher import RankLaunch, StoreHandle
from services.agent.memory_limit import MemoryExceeded, hold
from services.agent.order import Gang, SliceOrder
from services.agent.replacing import replacing
from services.agent.report import Reporting
from services.agent.runner import Ending, SliceControl, Surroundings
from services.agent.secrets import Given, Secrets, no_secrets
from services.agent.staging import DataUnusable, Staged, Staging
from services.agent.warm_launcher import WarmLauncher
from services.agent.work import WorkFolders

Slice = workload_pb2.Slice
_STORE_LINGER_S: Final = 30.0  # ranks of other nodes may still be leaving through it
_TOLD_S: Final = 2.0  # for the trainer to hear of a failure
_TRANSIENT: Final = (Unavailable, DeadlineExceeded, ResourceExhausted, Internal)
_CODE_ADVICE: Final = "correct the bundle or its requirements and submit the job again; `lepton run --dry-run` lists it"
_SECRETS_ADVICE: Final = "see `lepton secrets describe`, then submit the job again or restart it"
_DATA_ADVICE: Final = "upload the data again with --data, or name the digest of an artifact of the project"
_DEFAULTS: Final = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the ranks of one gang run."""

    answer: StartRunResponse  # of a program without a job, one with its specification alone
    program: Staged
    secrets: Given = field(default_factory=Given)


class _Refusal(Exception):
    """The user's code, requirements or data cannot be used."""

    def __init__(self, problem: str, failure_class: FailureClass, advice: str) -> None:
        super().__init__(problem)
        self.failure_class, self.advice = failure_class, advice


@dataclass(slots=True, eq=False)
class _LocalGang:
    """What the ranks of one gang on this node share."""

    present: int = 0
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)
    run: _Run | None = None
    refusal: _Refusal | None = None
    store: StoreHandle | None = None
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)


class TorchRunner:
    """Starts the ranks of this node and the stores of the gangs whose rank 0 is here."""

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        folders: WorkFolders,
        scratch: WorkFolders,
        staging: Staging,
        isolation: Isolation,
        launcher: WarmLauncher,
        cold: ColdRanks,
        reporting: Reporting,
        secrets: Secrets | None = None,
    ) -> None:
        self._surroundings, self._folders, self._scratch = surroundings, folders, scratch
        self._staging, self._isolation = staging, isolation
        self._launcher, self._cold, self._reporting = launcher, cold, reporting
        self._secrets = secrets or no_secrets()
        self._gangs: dict[str, _LocalGang] = {}

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        """Run one rank to its end."""
        async with AsyncExitStack() as stack:
            local = await stack.enter_async_context(self._member(order.gang))
            folder = await stack.enter_async_context(self._folders.open(order.folder))
            hosting = asyncio.ensure_future(self._host_store(local, order, control))  # while the rest is prepared
            try:
                run = await self._prepared(local, order)
            except _Refusal as refusal:
                return await self._refused(order, refusal)
            finally:
                await asyncio.wait({hosting})
            hosting.result()
            endpoint = await asyncio.shield(order.gang.store)
            share = Share(memory_bytes=run.answer.memory_bytes, cpu_milli=run.answer.cpu_milli)
            held = await stack.enter_async_context(self._isolation.slice(order.folder, order.project, share))
            temporary = await stack.enter_async_context(self._scratch.open(order.short))
            launch = self._launch(order, control, run, endpoint, _Places(folder, temporary), held)
            journal = await stack.enter_async_context(self._journal(order))
            replaces = replacing(run.answer.parallelism_json, order.key.index)
            while True:
                async with AsyncExitStack() as life:
                    rank = await self._start(launch, run.program.python)
                    control.running()
                    attendant = Attendant(
                        rank,
                        control,
                        journal=journal,
                        error_file=folder / "error.json",
                        node=order.node,
                        hang_timeout_s=run.answer.hang_timeout_s,
                        mask=run.secrets.mask,
                    )
                    life.enter_context(_ended_with(local.store, rank))
                    await life.enter_async_context(self._held_to(rank, share))
                    ending = await attendant.attend()
                is_cut_off = local.store is not None and local.store.exited.done()
                if is_cut_off or not replaces(ending):
                    return ending

    @contextlib.asynccontextmanager
    async def _member(self, gang: Gang) -> AsyncIterator[_LocalGang]:
        local = self._gangs.setdefault(gang.run_id, _LocalGang())
        local.present += 1
        try:
            yield local
        finally:
            local.present -= 1
            if local.present == 0:
                del self._gangs[gang.run_id]
                if local.store is not None:
                    asyncio.get_running_loop().call_later(_STORE_LINGER_S, local.store.kill)
                await local.closing.aclose()

    async def _prepared(self, local: _LocalGang, order: SliceOrder) -> _Run:
        async with local.preparing:
            if local.refusal is not None:
                raise local.refusal  # pip is not asked again for every rank
            if local.run is None:
                try:
                    run = await self._prepare(local, order)
                    local.run = replace(run, secrets=await self._given(local, order))
                except _Refusal as refusal:
                    local.refusal = refusal
                    raise
            return local.run

    async def _prepare(self, local: _LocalGang, order: SliceOrder) -> _Run:
        await self._surroundings.artifacts_ready(order.project)
        program = order.program.torch
        own = {**_DEFAULTS, **checked(program.environment)}
        builtin = Staged(entry=program.module, argv=checked_argv(program.argv), environment=own)
        if not program.job:
            return _Run(answer=StartRunResponse(spec_json=program.spec_json), program=builtin)
        answer = await self._reporting.start_run(
            StartRunRequest(
                job=program.job,
                generation=order.key.generation,
                workload_uid=order.key.workload_uid,
                world_size=order.gang.size,
            )
        )
        if not answer.HasField("code"):
            return _Run(answer=answer, program=builtin)
        try:
            staged = await self._staging.stage(
                answer.code,
                artifacts=ArtifactStore(self._surroundings.artifacts_of(order.project)),
                project=order.project,
                run_id=order.gang.run_id,
                confinement=self._isolation.confinement(order.project),
                until=local.closing,
            )
        except DataUnusable as error:
            raise _Refusal(str(error), FailureClass.DATA, _DATA_ADVICE) from error
        except _TRANSIENT:
            raise  # the node's or the store's fault, not the user's
        except LeptonError as error:
            raise _Refusal(f"cannot start: {error}", FailureClass.USER_ERROR, _CODE_ADVICE) from error
        return _Run(answer=answer, program=replace(staged, environment={**own, **staged.environment}))

    async def _given(self, local: _LocalGang, order: SliceOrder) -> Given:
        """The secrets of the gang; they stay until the last of its ranks here has ended."""
        try:
            fetched = await self._secrets.fetch_for(order)
        except (NotFound, FailedPrecondition, InvalidArgument) as error:
            raise _Refusal(f"cannot start: {error}", FailureClass.USER_ERROR, _SECRETS_ADVICE) from error
        uid = self._isolation.confinement(order.project).uid if fetched.files else None
        return local.closing.enter_context(self._secrets.lay_out(fetched, order.short, uid))

    async def _refused(self, order: SliceOrder, refusal: _Refusal) -> Ending:
        """The end of a rank that was never started, told to the trainer as its failure."""
        noticed = Timestamp()
        noticed.GetCurrentTime()
        told = RankFailure(message=str(refusal), node=order.node, advice=refusal.advice)
        setattr(told, "class", str(refusal.failure_class))  # a keyword of Python
        async with self._journal(order) as journal:
            if journal is not None:
                await journal.add(RunEvent(failure=told, time=noticed))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TOLD_S):
                        await journal.drained()
        failure = workload_pb2.SliceFailure(failure_class=refusal.failure_class, time=noticed)
        return Ending(state=Slice.FAILED, message=str(refusal), failure=failure)

    async def _host_store(self, local: _LocalGang, order: SliceOrder, control: SliceControl) -> None:
        """Starts the gang's store where rank 0 is here; elsewhere the scheduler tells where it answers."""
        gang = order.gang
        if gang.hosts_store and order.key.index == gang.local[0]:
            client = await self._launcher.client()
            local.store = await client.store(self._surroundings.address, store_id=f"store.{gang.run_id}")
            control.starting(endpoints={"store": local.store.endpoint})
            gang.learn_store(local.store.endpoint)

    def _launch(
        self,
        order: SliceOrder,
        control: SliceControl,
        run: _Run,
        endpoint: str,
        places: "_Places",
        held: Confinement,
    ) -> RankLaunch:
        place, program, folder = self._surroundings, run.program, places.folder
        spec, home = folder / "spec.json", folder / "home"
        spec.write_text(run.answer.spec_json)
        home.mkdir(mode=0o700)
        if held.uid is not None:
            for each in (folder, spec, home, places.temporary):
                os.chown(each, held.uid, held.uid)
        own = slice_variables(
            order,
            place,
            traceparent=control.traceparent,
            visible_devices=visible_devices(order, place.device_uuids),
        )
        given = run.secrets
        shown = [folder, places.temporary, *([program.data] if program.data else ()), *program.shown]
        if given.folder is not None:
            shown.append(given.folder)
        if given.environment:
            held = replace(held, limits={**held.limits, "core": NO_CORE})
        shown += place.shown_of(order.project)
        contract = rank_variables(order, store_endpoint=endpoint, spec=spec, run=run.answer, data=program.data)
        folders = {"HOME": str(home), "TMPDIR": str(places.temporary)}
        return RankLaunch(
            rank_id=order.folder,
            entry=program.entry,
            argv=program.argv,
            env={**_network(endpoint), **program.environment, **own, **contract, **folders},
            cwd=program.cwd or folder,
            confinement=replace(held, shown=(*held.shown, *map(str, shown))),
            secrets=given.environment,
        )

    async def _start(self, launch: RankLaunch, python: Path | None) -> Attended:
        if python is not None:
            return await self._cold.start(launch, python)
        return await (await self._launcher.client()).start(launch)

    @contextlib.asynccontextmanager
    async def _held_to(self, rank: Attended, share: Share) -> AsyncIterator[None]:
        """Ends a rank that uses more memory than it was given, where the agent has to look at that itself."""
        if not share.memory_bytes or not self._isolation.watches_memory:
            yield
            return

        def end(exceeded: MemoryExceeded) -> None:
            rank.stderr.feed_data(f"{exceeded}\n".encode())  # as its last words: in its log, and the reason of its end
            rank.kill()

        holding = asyncio.create_task(hold(rank.pid, share.memory_bytes, end))
        try:
            yield
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _journal(self, order: SliceOrder) -> AsyncIterator[Journal | None]:
        job = order.program.torch.job
        if not job:
            yield None
            return
        async with self._reporting.journal(job, order.key.generation, order.key.index) as journal:
            yield journal


@contextlib.contextmanager
def _ended_with(store: StoreHandle | None, rank: Attended) -> Iterator[None]:
    """Ends a rank of this node when its gang's store, which is here, has ended: it would wait for that for ever."""

    def end(_: object) -> None:
        if not rank.exited.done():
            rank.stderr.feed_data(b"DistStoreError: the gang's store has ended\n")  # its last words
            rank.kill()

    if store is not None:
        store.exited.add_done_callback(end)
    try:
        yield
    finally:
        if store is not None:
            store.exited.remove_done_callback(end)


def _network(endpoint: str) -> dict[str, str]:
    # Else gloo looks its own host's name up, which need not resolve.
    return {"GLOO_SOCKET_IFNAME": "lo"} if endpoint.startswith("127.") else {}


@dataclass(frozen=True, slots=True)
class _Places:
    """The folders of one rank."""

    folder: Path
    temporary: Path
