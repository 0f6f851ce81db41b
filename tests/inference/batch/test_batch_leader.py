"""A leader that is killed at any of its steps: the next one ends at the same result, to the digest."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chassis.artifacts import ArtifactStore
from chassis.election import Election
from chassis.kv import created
from chassis.ledger import Ledger
from lepton.errors import Aborted
from lepton.inference.v1 import batch_prediction_service_pb2 as pb
from lepton.inference.v1.batch_prediction_pb2 import BatchInput, BatchPrediction
from lepton.names import BatchPredictionName
from lepton.scheduler.v1.workload_pb2 import Workload
from services.inference.batch.documents import Plan
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.prepare import PrepareSpec, prepare
from services.inference.batch.reconciler import BatchReconciler
from services.inference.batch.shard import run_shard
from services.inference.batch.states import ENDED, area, prepare_name, run_name
from services.inference.batch.store import LEADER, key
from services.inference.registry import Registry
from tests.harness.crashes import Crash, MortalKV, MortalLedger, Steps
from tests.harness.ledger import ScriptedLedger, scripted_ledger
from tests.harness.memory_kv import MemoryKV
from tests.harness.shown import shown
from tests.inference.batch.conftest import BatchWorld, npz


class Scripted(BatchWorld):
    """A world whose scheduler does what the test says; the shards are run by the test."""

    def __init__(self, kv: MemoryKV, scheduler: ScriptedLedger, ledger: Ledger, artifacts: ArtifactStore) -> None:
        self.kv, self.scheduler, self.ledger, self.artifacts = kv, scheduler, ledger, artifacts

    def reconciler(self, candidate: str, steps: Steps | None = None) -> BatchReconciler:
        election = Election(self.kv, LEADER, candidate)
        kv: Any = self.kv if steps is None else MortalKV(self.kv, steps)
        ledger: Any = self.ledger if steps is None else MortalLedger(self.ledger, steps)
        return BatchReconciler(kv, election, ledger, Registry(kv, self.artifacts), self.artifacts)

    async def live(self, batch: BatchPrediction) -> None:
        """What the scheduler and the nodes do for a batch prediction: its plan, then its shards."""
        store = self.artifacts._store
        name = str(prepare_name(batch))
        planning = await self.scheduler.workload(name)
        spec = PrepareSpec.parse(planning.groups[0].program.torch.spec_json.encode())
        digest = await asyncio.to_thread(prepare, store, spec)
        await self.scheduler.place(name)
        await self.scheduler.end(name, Workload.SUCCEEDED, outputs={"plan": digest})
        await self.scheduler.workload(str(run_name(batch)))
        plan = Plan.parse(store.read("acme", digest))
        for index in range(len(plan.shards)):
            await asyncio.to_thread(run_shard, store, "acme", plan, index, area(batch))
        await self.scheduler.change(str(run_name(batch)), state=Workload.SUCCEEDED)

    async def killed_at(self, steps: Steps, batch: BatchPrediction) -> bool:
        """Runs a leader until the step that kills it, or until the end; whether it was killed."""
        running = asyncio.create_task(self.reconciler("i1", steps).run())
        reached = asyncio.ensure_future(self.ended(batch))
        try:
            await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
            running.cancel()
            outcome = (await asyncio.gather(running, reached, return_exceptions=True))[0]
        if isinstance(outcome, BaseExceptionGroup):
            assert outcome.subgroup(Crash) is not None, outcome
            return True
        assert isinstance(outcome, asyncio.CancelledError), outcome
        return False


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Scripted]:
    async with MemoryKV() as kv, scripted_ledger("inference") as (scheduler, ledger):
        yield Scripted(kv, scheduler, ledger, ArtifactStore(f"file://{tmp_path}/artifacts"))


@pytest.mark.parametrize("after", [False, True])
async def test_a_leader_killed_at_any_step_leaves_the_same_result(world: Scripted, after: bool) -> None:
    x = np.random.default_rng(2).normal(size=(90, 4)).astype(np.float32)
    x[5, 1] = np.inf
    version = (await world.version()).name
    killed, results = 0, set[tuple[Any, ...]]()
    while True:
        batch = await world.start(npz(x), name=f"b-{killed}", version=version, shard_rows=40, max_bad_rows=1)
        living = asyncio.ensure_future(world.live(batch))
        was_killed = await world.killed_at(Steps(killed + 1, after=after), batch)
        task = asyncio.create_task(world.reconciler("i2").run())
        ended = await world.ended(batch)
        await living
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        manifest = await world.manifest(ended)
        files = tuple(shard["file"] for shard in manifest["shards"])
        results.add((ended.state, ended.progress.rows_done, files, str(manifest["bad_rows"])))
        if not was_killed:
            break
        killed += 1
    assert killed >= 4  # plan, start, run, end
    assert len(results) == 1
    assert next(iter(results))[:2] == (BatchPrediction.SUCCEEDED, 90)


async def test_a_leader_whose_time_is_over_writes_nothing(world: Scripted) -> None:
    """The control: without the guard this write would count."""
    batch = await world.start(npz(np.ones((9, 4), np.float32)))
    old = world.reconciler("i1")
    stale = asyncio.create_task(old.run())
    await world.scheduler.workload(str(prepare_name(batch)))
    stale.cancel()
    await asyncio.gather(stale, return_exceptions=True)
    entry = await world.kv.get(LEADER)
    assert entry is None  # it has left, and what it held is gone
    with pytest.raises(Aborted):
        await old._end(batch, BatchPrediction.FAILED, "too late", created(LEADER, 1))
    current = await shown(world.kv, key(BatchPredictionName.parse(batch.name)), BatchPrediction, lambda b: b)
    assert current.state == BatchPrediction.PREPARING


async def test_a_repeated_request_starts_one(world: Scripted) -> None:
    artifact = await world.artifacts.put_bytes("acme", npz(np.ones((9, 4), np.float32)))
    request = pb.CreateBatchPredictionRequest(
        parent="projects/acme",
        batch_prediction_id="once",
        batch_prediction=BatchPrediction(
            model_version=(await world.version()).name, input=BatchInput(artifact=artifact), max_workers=1
        ),
        request_id=str(uuid.uuid4()),
    )
    users = BatchPredictions(world.kv, world.registry, world.artifacts)
    assert await users.create(request) == await users.create(request)
    assert (await world.until(await users.create(request), lambda b: True)).state not in ENDED
