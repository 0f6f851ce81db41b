"""A repeated request gets the first answer, and its effect happens once."""

import asyncio
from collections.abc import Sequence

import pytest

from chassis.kv import Compare, LeaseNotFound, Op, OutcomeUnknown, Put, TxnResult, absent
from chassis.requests import KEEP_S, Claim, Requests
from lepton.auth.v1.directory_service_pb2 import CreateProjectRequest
from lepton.auth.v1.project_pb2 import Project
from lepton.errors import Aborted, AlreadyExists
from tests.harness.memory_kv import MemoryKV

ID = "8c9cb2b3-9a37-4d1c-8a3a-0d1f7f5f0a11"
PREFIX = "/test/requests/"


class Projects:
    def __init__(self, kv: MemoryKV, **options: bytes) -> None:
        self.kv = kv
        self.requests = Requests(kv, PREFIX, digest_key=options.get("digest_key", b""))
        self.writes = 0

    async def create(self, request: CreateProjectRequest) -> Project:
        return await self.requests.once(request, Project, lambda claim: self._create(request, claim))

    async def _create(self, request: CreateProjectRequest, claim: Claim) -> Project | None:
        key = f"/test/projects/{request.project_id}"
        if await self.kv.get(key) is not None:
            raise AlreadyExists("PROJECT_ALREADY_EXISTS", project=request.project_id)
        self.writes += 1
        project = Project(name=f"projects/{request.project_id}", uid=str(self.writes))
        ops: Sequence[Op] = [Put(key, project.SerializeToString()), *claim.record(project, project.name)]
        done = await self.kv.txn([absent(key), *claim.guard], ops)
        return project if done.succeeded else None


async def test_a_repeat_gets_the_first_answer() -> None:
    projects = Projects(MemoryKV())
    first = await projects.create(CreateProjectRequest(project_id="acme", request_id=ID))
    again = await projects.create(CreateProjectRequest(project_id="acme", request_id=ID))
    entry = await projects.kv.get("/test/projects/acme")
    assert entry is not None
    assert (again.name, again.uid) == (first.name, first.uid)
    assert again.etag == f'"{entry.mod_revision}"'
    assert projects.writes == 1


async def test_without_a_request_id_nothing_is_recorded() -> None:
    projects = Projects(MemoryKV())
    await projects.create(CreateProjectRequest(project_id="acme"))
    with pytest.raises(AlreadyExists):
        await projects.create(CreateProjectRequest(project_id="acme"))
    assert (await projects.kv.list(PREFIX)).entries == ()


async def test_another_request_with_the_same_id_is_refused() -> None:
    projects = Projects(MemoryKV())
    await projects.create(CreateProjectRequest(project_id="acme", request_id=ID))
    with pytest.raises(AlreadyExists) as caught:
        await projects.create(CreateProjectRequest(project_id="other", request_id=ID))
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_concurrent_repeats_write_once() -> None:
    kv = MemoryKV()
    replicas = [Projects(kv) for _ in range(5)]
    request = CreateProjectRequest(project_id="acme", request_id=ID)
    answers = await asyncio.gather(*(replica.create(request) for replica in replicas))
    assert len({(answer.name, answer.uid) for answer in answers}) == 1
    assert len((await kv.list("/test/projects/")).entries) == 1


async def test_records_expire_after_a_day_and_share_a_lease() -> None:
    projects = Projects(MemoryKV())
    await projects.create(CreateProjectRequest(project_id="a", request_id=ID))
    await projects.create(CreateProjectRequest(project_id="b", request_id=ID[:-1] + "2"))
    leases = {entry.lease for entry in (await projects.kv.list(PREFIX)).entries}
    assert len(leases) == 1
    assert leases != {0}
    assert KEEP_S == 86_400


async def test_a_keyed_digest_differs_from_the_plain_one() -> None:
    plain, keyed = Projects(MemoryKV()), Projects(MemoryKV(), digest_key=b"k" * 32)
    for projects in (plain, keyed):
        await projects.create(CreateProjectRequest(project_id="acme", request_id=ID))
    values = [(await projects.kv.list(PREFIX)).entries[0].value for projects in (plain, keyed)]
    assert values[0] != values[1]


class Unsure(MemoryKV):
    """Applies the first write and then says it does not know; or loses the lease first."""

    fault: type[Exception] | None = None
    applies = True

    async def txn(self, compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        fault, self.fault = self.fault, None
        if fault is None or self.applies:
            done = await super().txn(compare, then, otherwise)
        if fault is not None:
            raise fault("as the test wants")
        return done


@pytest.mark.parametrize("applies", [True, False])
async def test_an_unknown_outcome_is_found_out(applies: bool) -> None:
    kv = Unsure()
    kv.fault, kv.applies = OutcomeUnknown, applies
    project = await Projects(kv).create(CreateProjectRequest(project_id="acme", request_id=ID))
    stored = await kv.get("/test/projects/acme")
    assert stored is not None
    assert Project.FromString(stored.value).uid == project.uid


async def test_an_unknown_outcome_without_an_id_stays_unknown() -> None:
    kv = Unsure()
    kv.fault = OutcomeUnknown
    with pytest.raises(OutcomeUnknown):
        await Projects(kv).create(CreateProjectRequest(project_id="acme"))


async def test_a_lost_lease_is_replaced() -> None:
    kv = Unsure()
    kv.fault, kv.applies = LeaseNotFound, False
    await Projects(kv).create(CreateProjectRequest(project_id="acme", request_id=ID))


async def test_a_state_that_keeps_moving_is_a_conflict() -> None:
    requests = Requests(MemoryKV(), PREFIX)

    async def never(_claim: Claim) -> Project | None:
        return None

    with pytest.raises(Aborted) as caught:
        await requests.once(CreateProjectRequest(project_id="acme", request_id=ID), Project, never)
    assert caught.value.reason == "WRITE_CONFLICT"
