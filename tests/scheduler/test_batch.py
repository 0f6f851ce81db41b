"""BatchCreateWorkloads: every workload stands alone, once, whatever happens on the way."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from chassis.clock import SystemClock
from chassis.etcd import EtcdKV
from chassis.kv import KV, Compare, DeletePrefix, Op, OutcomeUnknown, Put, TxnResult
from chassis.paging import Pager
from chassis.requests import Requests
from lepton.errors import InvalidArgument
from services.scheduler import keys
from services.scheduler.workloads import Workloads
from tests.harness.crashes import Crash
from tests.harness.etcd import EtcdCluster
from tests.harness.memory_kv import MemoryKV
from tests.harness.scheduling import Replica, Workload, pb, workload

OK, INVALID_ARGUMENT, ALREADY_EXISTS, ABORTED, UNAVAILABLE = 0, 3, 6, 10, 14


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.integration)])
def cluster(request: pytest.FixtureRequest) -> EtcdCluster | None:
    return request.getfixturevalue("etcd") if request.param == "etcd" else None


@pytest.fixture
async def store(cluster: EtcdCluster | None) -> AsyncIterator[KV]:
    if cluster is None:
        async with MemoryKV() as memory:
            yield memory
        return
    async with EtcdKV(cluster.endpoints) as etcd:
        await etcd.txn([], [DeletePrefix(keys.ROOT)])
        yield etcd
        await etcd.txn([], [DeletePrefix(keys.ROOT)])


async def workloads_of(kv: Any) -> Workloads:
    pager = await Pager.open(getattr(kv, "_kv", kv), keys.PAGE_KEY)  # its transaction is not one of the test's
    return Workloads(kv, Requests(kv, keys.REQUESTS), pager, SystemClock())


def batch(count: int, prefix: str = "w", *, ids: Sequence[str] = (), **fields: Any) -> pb.BatchCreateWorkloadsRequest:
    items = [
        pb.CreateWorkloadRequest(
            workload_id=f"{prefix}{at}", workload=workload(1, **fields), request_id=ids[at] if ids else ""
        )
        for at in range(count)
    ]
    return pb.BatchCreateWorkloadsRequest(parent="projects/acme", requests=items)


def new_ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


def copy(request: pb.BatchCreateWorkloadsRequest) -> pb.BatchCreateWorkloadsRequest:
    return pb.BatchCreateWorkloadsRequest.FromString(request.SerializeToString())


class Failing:
    """A store some of whose writes fail, by their number: before their effect (False) or after it (True)."""

    def __init__(self, kv: KV, failures: Mapping[int, bool], error: type[Exception] = OutcomeUnknown) -> None:
        self._kv, self._failures, self._error, self._count = kv, failures, error, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kv, name)

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        self._count += 1
        has_effect = self._failures.get(self._count)
        if has_effect is False:
            raise self._error
        result = await self._kv.txn(compare, then, otherwise)
        if has_effect:
            raise self._error
        return result


class Dying(Failing):
    """A store whose user dies at one of its writes: what is on its way arrives all the same, the last never leaves."""

    def __init__(self, kv: KV, at: int, writes: int, *, after: bool) -> None:
        super().__init__(kv, {at: after}, Crash)
        self._last = writes
        self._sent: list[asyncio.Task[TxnResult]] = []

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        if len(self._sent) == self._last - 1:
            await asyncio.Event().wait()
        sent = asyncio.create_task(super().txn(compare, then, otherwise))
        self._sent.append(sent)
        return await asyncio.shield(sent)

    async def create_many(self, request: pb.BatchCreateWorkloadsRequest) -> None:
        """Dies on the way; returns when nothing is on its way any more."""
        with pytest.raises(ExceptionGroup) as died:
            await (await workloads_of(self)).create_many(copy(request))
        await asyncio.gather(*self._sent, return_exceptions=True)
        assert died.group_contains(Crash)


async def stored(kv: KV) -> dict[str, Workload]:
    found = (Workload.FromString(entry.value) for entry in (await kv.list(keys.WORKLOADS)).entries)
    return {each.name.rpartition("/")[2]: each for each in found}


async def test_a_batch_makes_what_as_many_single_requests_would(replica: Replica) -> None:
    single = await replica.submit("single", workload(2, priority=3))
    request = pb.CreateWorkloadRequest(workload_id="many", workload=workload(2, priority=3))
    answer = await replica.trainer.BatchCreateWorkloads(
        pb.BatchCreateWorkloadsRequest(parent="projects/acme", requests=[request])
    )
    (result,) = answer.results
    made = await replica.get("many")
    assert (result.code, result.name, result.uid) == (OK, made.name, made.uid)
    for each in (single, made):
        for own in ("name", "uid", "create_time", "update_time", "etag", "message", "pending_reason", "trace_context"):
            each.ClearField(own)
    assert made == single


async def test_the_order_of_the_requests_is_the_order_of_the_queue(store: KV) -> None:
    await (await workloads_of(store)).create_many(batch(120))
    found = await stored(store)
    assert len({each.uid for each in found.values()}) == len(found) == 120
    in_order = sorted(found.values(), key=lambda each: each.create_time.ToNanoseconds())
    assert [each.name.rpartition("/w")[2] for each in in_order] == [str(at) for at in range(120)]


async def test_each_stands_alone_and_says_what_is_wrong_with_it(replica: Replica) -> None:
    await replica.submit("w1", workload(1))
    request = batch(6)
    request.requests[2].workload_id = "Not An Id"
    request.requests[3].workload.groups[0].min_count = 0
    request.requests[4].parent = "projects/other"
    request.requests[5].workload.groups[0].resources.device_milli = 1500
    results = (await replica.trainer.BatchCreateWorkloads(request)).results
    assert [each.code for each in results] == [OK, ALREADY_EXISTS, *[INVALID_ARGUMENT] * 4]
    assert "WORKLOAD_ALREADY_EXISTS" in results[1].message
    for result, field in zip(results[2:], ("workload_id", "min_count", "parent", "device_milli"), strict=True):
        assert field in result.message
    listed = await replica.trainer.ListWorkloads(pb.ListWorkloadsRequest(parent="projects/acme"))
    assert sorted(each.name.rpartition("/")[2] for each in listed.workloads) == ["w0", "w1"]


async def test_what_only_the_scheduler_sets_is_not_taken_from_a_caller(store: KV) -> None:
    request = batch(2)
    for item in request.requests:  # the second is of a shape that is known by then
        item.workload.uid, item.workload.state, item.workload.generation = "mine", Workload.SUCCEEDED, 9
        item.workload.name = "projects/other/workloads/else"
    await (await workloads_of(store)).create_many(request)
    for name, made in (await stored(store)).items():
        assert made.name == f"projects/acme/workloads/{name}"
        assert (made.state, made.generation) == (Workload.PENDING, 0)
        assert made.uid != "mine"


async def test_a_wrong_field_is_found_in_each_of_many_alike(store: KV) -> None:
    request = batch(60)
    for item in request.requests:
        item.workload.groups[0].max_count = -1
    request.requests[7].workload.groups[0].max_count = 0
    results = (await (await workloads_of(store)).create_many(request)).results
    assert [at for at, each in enumerate(results) if each.code == OK] == [7]


async def test_an_empty_or_endless_batch_is_refused_whole(replica: Replica) -> None:
    for wrong in (pb.BatchCreateWorkloadsRequest(parent="projects/acme"), batch(5001), batch(1)):
        if len(wrong.requests) == 1:
            wrong.parent = "somewhere"
        with pytest.raises(InvalidArgument):
            await replica.trainer.BatchCreateWorkloads(wrong)


async def test_a_repeat_answers_as_the_first_time_and_makes_what_is_missing(store: KV) -> None:
    workloads, ids = await workloads_of(store), new_ids(130)
    half = batch(130, ids=ids)
    del half.requests[70:]
    first = await workloads.create_many(copy(half))
    again = await workloads.create_many(batch(130, ids=ids))
    assert list(again.results[:70]) == list(first.results)
    assert {each.code for each in again.results} == {OK}
    assert len(await stored(store)) == 130


async def test_an_id_that_comes_with_another_request_is_refused(store: KV) -> None:
    workloads, ids = await workloads_of(store), new_ids(3)
    await workloads.create_many(batch(3, ids=ids))
    other = batch(3, ids=ids, priority=7)
    other.requests[2].request_id = str(uuid.uuid4())
    results = (await workloads.create_many(other)).results
    assert [each.code for each in results] == [ALREADY_EXISTS] * 3
    assert ["IDEMPOTENCY_KEY_REUSED" in each.message for each in results] == [True, True, False]


async def test_a_single_request_repeated_in_a_batch_is_the_same_request(store: KV) -> None:
    workloads, ids = await workloads_of(store), new_ids(1)
    request = batch(1, ids=ids)
    request.requests[0].parent = "projects/acme"
    first = await workloads.create(pb.CreateWorkloadRequest.FromString(request.requests[0].SerializeToString()))
    (result,) = (await workloads.create_many(request)).results
    assert (result.code, result.uid) == (OK, first.uid)


async def test_the_same_id_twice_in_one_batch_is_made_once(store: KV) -> None:
    request = batch(4, ids=new_ids(4))
    request.requests[1].CopyFrom(request.requests[0])  # a repeat
    request.requests[3].workload_id = request.requests[2].workload_id  # another with the same name
    results = (await (await workloads_of(store)).create_many(request)).results
    assert [each.code for each in results] == [OK, OK, OK, ALREADY_EXISTS]
    assert results[0].uid == results[1].uid
    assert len(await stored(store)) == 2


async def test_many_equal_batches_at_once_make_each_workload_once(store: KV) -> None:
    workloads, request = await workloads_of(store), batch(100, ids=new_ids(100))
    answers = await asyncio.gather(*[workloads.create_many(copy(request)) for _ in range(6)])
    uids = {name: each.uid for name, each in (await stored(store)).items()}
    for answer in answers:
        assert {each.name.rpartition("/")[2]: each.uid for each in answer.results} == uids


async def test_many_different_batches_for_the_same_names_have_one_winner_each(store: KV) -> None:
    workloads = await workloads_of(store)
    answers = await asyncio.gather(*[workloads.create_many(batch(100, priority=at)) for at in range(5)])
    for at in range(100):
        codes = sorted(answer.results[at].code for answer in answers)
        assert codes == [OK, *[ALREADY_EXISTS] * 4]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2, 4])
async def test_a_crash_in_the_middle_and_a_retry_make_each_exactly_once(store: KV, at: int, after: bool) -> None:
    """The process dies at a transaction, before or after its effect; the client repeats to another one."""
    request = batch(500, ids=new_ids(500))
    await Dying(store, at, 20, after=after).create_many(request)
    before = {name: each.uid for name, each in (await stored(store)).items()}
    assert len(before) < 500
    records = (await store.list(keys.REQUESTS)).entries
    assert len(records) == len(before), "a workload without its record, or the other way round"
    answer = await (await workloads_of(store)).create_many(copy(request))
    uids = {name: each.uid for name, each in (await stored(store)).items()}
    assert {each.code for each in answer.results} == {OK}
    assert {each.name.rpartition("/")[2]: each.uid for each in answer.results} == uids
    assert before.items() <= uids.items()
    assert len(uids) == 500


async def test_without_ids_a_retry_cannot_tell_its_own_work_from_another(store: KV) -> None:
    """The control of the test above: it is the ids that make the retry answer OK."""
    request = batch(500)
    await Dying(store, 2, 10, after=True).create_many(request)
    answer = await (await workloads_of(store)).create_many(copy(request))
    assert {each.code for each in answer.results} == {OK, ALREADY_EXISTS}
    assert len(await stored(store)) == 500


@pytest.mark.parametrize("has_ids", [True, False])
async def test_a_lost_answer_is_found_out_even_without_ids(store: KV, has_ids: bool) -> None:
    request = batch(120, ids=new_ids(120) if has_ids else ())
    workloads = await workloads_of(Failing(store, {1: True, 2: False, 3: True}))
    results = (await workloads.create_many(request)).results
    assert {each.code for each in results} == {OK}
    assert {each.name.rpartition("/")[2]: each.uid for each in results} == {
        name: each.uid for name, each in (await stored(store)).items()
    }


async def test_a_store_that_never_answers_is_said_to_be_unavailable(store: KV) -> None:
    workloads = await workloads_of(Failing(store, dict.fromkeys(range(1, 99), False)))
    (result,) = (await workloads.create_many(batch(1))).results
    assert result.code == UNAVAILABLE
    assert "OUTCOME_UNKNOWN" in result.message


async def test_a_store_that_keeps_moving_is_a_conflict(store: KV) -> None:
    class Moving(Failing):
        async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
            return await self._kv.txn([*compare, Compare(key="x", field="mod_revision", relation="equal", revision=9)], then, otherwise)  # fmt: skip  # noqa: E501

    (result,) = (await (await workloads_of(Moving(store, {}))).create_many(batch(1))).results
    assert result.code == ABORTED
    assert "WRITE_CONFLICT" in result.message


async def test_no_transaction_is_larger_than_fifty_operations(store: KV) -> None:
    class Counting(Failing):
        ops: list[int] = []  # noqa: RUF012

        async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
            self.ops.append(sum(isinstance(op, Put) for op in then))
            return await self._kv.txn(compare, then, otherwise)

    counting = Counting(store, {})
    await (await workloads_of(counting)).create_many(batch(500))
    await (await workloads_of(counting)).create_many(batch(500, prefix="v", ids=new_ids(500)))
    assert counting.ops == [50] * 30
