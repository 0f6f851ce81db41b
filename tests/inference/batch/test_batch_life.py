"""A batch prediction from its dataset to its result, whatever dies in between: no row is lost, none is repeated."""

import asyncio
import json
import random
from typing import Any

import numpy as np
import pytest

from lepton.inference.v1 import batch_prediction_service_pb2 as pb
from lepton.inference.v1.batch_prediction_pb2 import BadRow, BatchPrediction
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.store import BATCH_PREDICTIONS
from tests.harness.wait import until
from tests.inference.batch.conftest import WEIGHTS, BatchWorld, npz, workers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
ROWS = 3000


def dataset(rows: int = ROWS) -> Any:
    return np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)


def check_each_row_once(rows: Any, logits: Any, x: Any) -> None:
    """Fails unless every row is there, once, in the dataset's order, with its own answer."""
    assert list(rows) == list(range(len(x)))
    np.testing.assert_allclose(logits, x @ WEIGHTS, rtol=1e-5, atol=1e-5)


async def test_every_row_is_predicted_in_order_though_workers_are_killed(world: BatchWorld) -> None:
    x, chance = dataset(), random.Random(5)
    print("seed 5")
    await world.agent()
    async with world.reconciling():
        batch = await world.start(npz(x), shard_rows=500)
        killed = set()
        for _ in range(3):
            await until(lambda: {each.pid for each in workers()} - killed, 60)
            victim = chance.choice([each for each in workers() if each.pid not in killed])
            killed.add(victim.pid)
            victim.kill()
        ended = await world.ended(batch)
    assert ended.state == BatchPrediction.SUCCEEDED, ended.message
    result = await world.arrays(ended)
    check_each_row_once(result["row"], result["logits"], x)
    manifest = await world.manifest(ended)
    assert (manifest["is_complete"], manifest["rows"], len(manifest["shards"])) == (True, ROWS, 6)
    progress = ended.progress
    assert (progress.rows, progress.rows_done, progress.shards, progress.shards_done) == (ROWS, ROWS, 6, 6)
    assert progress.rows_per_s > 0
    assert ended.HasField("start_time")
    assert ended.HasField("end_time")


async def test_without_retries_a_killed_worker_costs_its_rows(world: BatchWorld) -> None:
    """The control: the kill does interrupt work, and the check of rows sees it."""
    x = dataset(1000)
    await world.agent()
    async with world.reconciling():
        batch = await world.start(npz(x), shard_rows=250, max_retries=-1)
        await until(workers, 60)
        workers()[0].kill()
        ended = await world.ended(batch)
    assert ended.state == BatchPrediction.FAILED
    assert "killed by SIGKILL" in ended.message
    if ended.manifest:
        result = await world.arrays(ended)
        with pytest.raises(AssertionError):
            check_each_row_once(result["row"], result["logits"], x)
        assert not (await world.manifest(ended))["is_complete"]


async def test_an_agent_that_goes_and_a_leader_that_dies_cost_nothing(world: BatchWorld) -> None:
    x = dataset()
    first = await world.agent("n1")
    async with world.reconciling("i1") as leader:
        batch = await world.start(npz(x), shard_rows=500, max_retries=-1)
        await until(workers, 60)
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)
    await world.agent("n2")
    await first.leave()
    async with world.reconciling("i2"):
        ended = await world.ended(batch)
    assert ended.state == BatchPrediction.SUCCEEDED, ended.message
    result = await world.arrays(ended)
    check_each_row_once(result["row"], result["logits"], x)


LINES = [
    {"x": [1.0, 2.0, 3.0, 4.0]},
    {"x": [1.0, 2.0, 3.0]},
    {"x": [1.0, None, 3.0, 4.0]},
    {"x": ["a", "b", "c", "d"]},
    {"y": 1},
    {"x": [1e400, 0, 0, 0]},
    [4.0, 3.0, 2.0, 1.0],
]
REASONS = {1: "WRONG_SHAPE", 2: "WRONG_TYPE", 3: "WRONG_TYPE", 4: "MISSING_INPUT", 5: "NOT_FINITE", 7: "UNREADABLE"}


async def test_bad_rows_are_told_by_index_and_reason_and_cost_no_other_row(world: BatchWorld) -> None:
    data = "\n".join(map(json.dumps, LINES)) + "\n{no json\n"
    await world.agent()
    async with world.reconciling():
        batch = await world.start(data.encode(), shard_rows=3, max_bad_rows=6, output_format=BatchPrediction.JSONL)
        ended = await world.ended(batch)
    assert ended.state == BatchPrediction.SUCCEEDED, ended.message
    lines = await world.lines(ended)
    assert [line["row"] for line in lines] == list(range(8))
    assert {line["row"]: line["error"]["reason"] for line in lines if "error" in line} == REASONS
    np.testing.assert_allclose(lines[6]["logits"], np.array(LINES[6], np.float32) @ WEIGHTS, rtol=1e-5)
    assert {row.row: BadRow.Reason.Name(row.reason) for row in ended.bad_rows} == REASONS
    assert ended.progress.bad_rows == len((await world.manifest(ended))["bad_rows"]) == 6


async def test_more_bad_rows_than_are_tolerated_end_it_and_stop_its_workers(world: BatchWorld) -> None:
    x = dataset(1200)
    x[77, 2] = np.nan
    await world.agent()
    async with world.reconciling():
        batch = await world.start(npz(x), shard_rows=100, max_workers=1)
        ended = await world.ended(batch)
        await until(lambda: not workers(), 60)
    assert ended.state == BatchPrediction.FAILED
    assert "1 bad rows, 0 are tolerated; row 77 is NOT_FINITE" in ended.message
    assert ended.progress.rows_done < 1200  # it did not go on for nothing


async def test_a_cancelled_one_keeps_what_is_done_and_a_deleted_one_leaves_nothing(world: BatchWorld) -> None:
    x = dataset(4000)
    await world.agent()
    users = BatchPredictions(world.kv, world.registry, world.artifacts)
    async with world.reconciling():
        batch = await world.start(npz(x), shard_rows=100, max_workers=1)
        await world.until(batch, lambda b: b.progress.shards_done >= 1)
        await users.cancel(pb.CancelBatchPredictionRequest(name=batch.name))
        ended = await world.ended(batch)
        assert ended.state == BatchPrediction.CANCELLED
        rows = (await world.arrays(ended))["row"]
        assert 100 <= len(rows) == ended.progress.rows_done < 4000
        await users.delete(pb.DeleteBatchPredictionRequest(name=batch.name))

        async def is_gone() -> bool:
            return not (await world.kv.list(BATCH_PREDICTIONS)).entries

        await until(is_gone, 30)
    assert not await world.artifacts.listing("acme", area=f"batches/{batch.uid}")
    assert not workers()
