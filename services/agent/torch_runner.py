"""Runs torch programs: the ranks of a gang, from the warm launcher, under torchrun's contract."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lepton.artifacts import ArtifactStore
from lepton.internal.v1 import run_report_pb2
from services.agent.attendant import Attendant
from services.agent.bundle import entry_point, unpack
from services.agent.environment import checked, checked_argv, rank_variables, slice_variables, visible_devices
from services.agent.journal import Journal
from services.agent.launcher import RankLaunch, StoreHandle
from services.agent.order import Gang, SliceOrder
from services.agent.report import Reporting
from services.agent.runner import Ending, SliceControl, Surroundings
from services.agent.warm_launcher import WarmLauncher
from services.agent.work import WorkFolders

_STORE_LINGER_S: Final = 30.0  # ranks of other nodes may still be leaving through it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What the ranks of one gang run."""

    spec: str
    resume: str
    entry: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path | None  # None: the rank's own folder


@dataclass(slots=True, eq=False)
class _LocalGang:
    """What the ranks of one gang on this node share."""

    present: int = 0
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)
    run: _Run | None = None
    store: StoreHandle | None = None
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)


class TorchRunner:
    """Starts the ranks of this node and the stores of the gangs whose rank 0 is here."""

    def __init__(
        self,
        *,
        surroundings: Surroundings,
        folders: WorkFolders,
        launcher: WarmLauncher,
        reporting: Reporting,
    ) -> None:
        self._surroundings, self._folders = surroundings, folders
        self._launcher, self._reporting = launcher, reporting
        self._gangs: dict[str, _LocalGang] = {}

    async def run(self, order: SliceOrder, control: SliceControl) -> Ending:
        """Run one rank to its end."""
        async with self._member(order.gang) as local, self._folders.open(order.folder) as folder:
            run = await self._prepared(local, order)
            endpoint = await self._endpoint(local, order, control)
            launch = self._launch(order, control, run, endpoint, folder)
            async with self._journal(order) as journal:
                rank = await (await self._launcher.client()).start(launch)
                control.running()
                attendant = Attendant(rank, control, journal=journal, error_file=folder / "error.json")
                return await attendant.attend()

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
            if local.run is None:
                local.run = await self._prepare(local, order)
            return local.run

    async def _prepare(self, local: _LocalGang, order: SliceOrder) -> _Run:
        program = order.program.torch
        own = {"OMP_NUM_THREADS": "1", **checked(program.environment)}
        if not program.job:
            return _Run(
                spec=program.spec_json,
                resume="",
                entry=program.module,
                argv=checked_argv(program.argv),
                environment=own,
                cwd=None,
            )
        answer = await self._reporting.start_run(
            run_report_pb2.StartRunRequest(
                job=program.job,
                generation=order.key.generation,
                workload_uid=order.key.workload_uid,
                world_size=order.gang.size,
            )
        )
        if not answer.HasField("code"):
            return _Run(
                spec=answer.spec_json,
                resume=answer.resume_manifest,
                entry=program.module,
                argv=checked_argv(program.argv),
                environment=own,
                cwd=None,
            )
        code = answer.code
        folder = await local.closing.enter_async_context(self._folders.open(f"{order.gang.run_id}.code"))
        store = ArtifactStore(self._surroundings.artifacts)
        await asyncio.to_thread(unpack, store, order.project, code.digest, folder)  # reads and writes much
        return _Run(
            spec=answer.spec_json,
            resume=answer.resume_manifest,
            entry=str(entry_point(folder, code.entry_point)),
            argv=checked_argv(code.argv),
            environment={**own, **checked(code.environment)},
            cwd=folder,
        )

    async def _endpoint(self, local: _LocalGang, order: SliceOrder, control: SliceControl) -> str:
        """Where the gang's store answers: this node's own when rank 0 is here, else what the scheduler says."""
        gang = order.gang
        if gang.hosts_store and order.key.index == gang.local[0]:
            client = await self._launcher.client()
            local.store = await client.store(self._surroundings.address, store_id=f"store.{gang.run_id}")
            control.starting(endpoints={"store": local.store.endpoint})
            gang.learn_store(local.store.endpoint)
        return await asyncio.shield(gang.store)

    def _launch(self, order: SliceOrder, control: SliceControl, run: _Run, endpoint: str, folder: Path) -> RankLaunch:
        spec, place = folder / "spec.json", self._surroundings
        spec.write_text(run.spec)
        own = slice_variables(
            order,
            artifacts=place.artifacts,
            otlp_endpoint=place.otlp_endpoint,
            traceparent=control.traceparent,
            visible_devices=visible_devices(order, place.device_uuids),
        )
        contract = rank_variables(
            order, store_endpoint=endpoint, spec=spec, job=order.program.torch.job, resume=run.resume
        )
        return RankLaunch(
            rank_id=order.folder,
            entry=run.entry,
            argv=run.argv,
            env={**run.environment, **own, **contract},
            cwd=run.cwd or folder,
        )

    @contextlib.asynccontextmanager
    async def _journal(self, order: SliceOrder) -> AsyncIterator[Journal | None]:
        job = order.program.torch.job
        if not job:
            yield None
            return
        async with self._reporting.journal(job, order.key.generation, order.key.index) as journal:
            yield journal
