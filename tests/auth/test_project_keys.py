"""Keys of projects: apart from one another, rotated without loss, and gone for good when they are destroyed."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, timedelta

import pytest
import pytest_asyncio

from chassis.kv import KV, OutcomeUnknown, Put, list_all
from lepton.artifacts import KeyFile
from lepton.audit.record import Record
from lepton.auth.v1.project_pb2 import Project
from lepton.errors import FailedPrecondition, LeptonError, NotFound
from lepton.internal.v1.audit_feed_pb2 import AuditBlock
from lepton.names import ProjectName
from services.auth import layout
from services.auth.audit import AuditTrail
from services.auth.key_providers import Succession
from services.auth.project_encryption import ProjectEncryption
from services.auth.project_keys import ProjectKeys, Purpose, version_of
from tests.harness.clock import ManualClock
from tests.harness.memory_kv import MemoryKV

PLACE = "projects/acme/secrets/s/versions/1"
OLD, NEW = os.urandom(32), os.urandom(32)


@pytest_asyncio.fixture
async def store() -> AsyncIterator[MemoryKV]:
    async with MemoryKV() as kv:
        for project in ("acme", "rival"):
            await kv.txn([], [Put(layout.project(ProjectName(project)), Project().SerializeToString())])
        yield kv


def keys_over(kv: KV, provider: Mapping[str, bytes] | None = None) -> ProjectKeys:
    """A replica of auth, as far as these keys go."""
    clock = ManualClock()
    trail = AuditTrail(kv, clock, b"h" * 32)
    return ProjectKeys(kv, KeyFile.of(provider or {"old": OLD}), trail, clock)


async def records_of(kv: KV) -> list[Record]:
    blocks = (await list_all(kv, layout.AUDIT_BLOCKS)).entries
    return [Record.parse(each) for block in blocks for each in AuditBlock.FromString(block.value).records]


async def copied(kv: KV) -> MemoryKV:
    """A copy of the store, as somebody may have kept one."""
    copy = MemoryKV()
    for entry in (await list_all(kv, layout.ROOT)).entries:
        await copy.txn([], [Put(entry.key, entry.value)])
    return copy


async def test_what_is_sealed_opens_in_its_place_and_nowhere_else(store: MemoryKV) -> None:
    keys, replica = keys_over(store), keys_over(store)
    sealed = await keys.seal("acme", b"value", PLACE)
    assert b"value" not in sealed
    assert await keys.open("acme", sealed, PLACE) == b"value" == await replica.open("acme", sealed, PLACE)
    assert await keys.seal("acme", b"value", PLACE) != sealed
    for project, data, place in [
        ("acme", sealed, PLACE + "0"),
        ("rival", sealed, PLACE),
        ("acme", sealed[:-1] + bytes([sealed[-1] ^ 1]), PLACE),
        ("acme", sealed[:4] + b"\2" + sealed[5:], PLACE),
        ("acme", b"\2" + sealed[1:], PLACE),
        ("acme", sealed[:20], PLACE),
        ("acme", b"", PLACE),
    ]:
        await keys.seal(project, b"x", PLACE)  # so that the other project has a key too
        with pytest.raises(FailedPrecondition):
            await keys.open(project, data, place)


async def test_a_project_that_is_none_gets_no_key(store: MemoryKV) -> None:
    with pytest.raises(NotFound):
        await keys_over(store).seal("nobody", b"value", PLACE)
    assert not (await list_all(store, layout.PROJECT_KEYS)).entries


async def test_replicas_that_begin_at_once_agree_on_one_key(store: MemoryKV) -> None:
    replicas = [keys_over(store) for _ in range(8)]
    sealed = await asyncio.gather(*(each.seal("acme", b"value", PLACE) for each in replicas))
    assert len(await replicas[0].keys("acme", Purpose.DATA)) == 1
    assert [await replicas[0].open("acme", each, PLACE) for each in sealed] == [b"value"] * 8


async def test_nothing_in_the_store_is_a_key(store: MemoryKV) -> None:
    keys = keys_over(store)
    await keys.seal("acme", b"value", PLACE)
    every = [key.key for purpose in Purpose for key in await keys.keys("acme", purpose)]
    stored = [entry.value for entry in (await list_all(store, "/")).entries]
    assert len(every) == 2
    assert not [key for key in every for value in stored if key in value or key.hex().encode() in value]


async def test_the_key_of_artifacts_opens_no_data(store: MemoryKV) -> None:
    """Agents hold the one; what auth seals for itself must stay closed to them."""
    keys = keys_over(store)
    artifacts, data = [(await keys.keys("acme", purpose))[0] for purpose in (Purpose.ARTIFACTS, Purpose.DATA)]
    assert artifacts.key != data.key
    assert artifacts.key_id != data.key_id


async def test_a_record_that_is_moved_to_another_project_gives_it_nothing(store: MemoryKV) -> None:
    """Who can write to etcd, but has not the provider's key, hands the rival's slices no key of acme's."""
    keys = keys_over(store)
    (key,) = await keys.keys("acme", Purpose.ARTIFACTS)
    entry = await store.get(layout.project_key(ProjectName("acme"), Purpose.ARTIFACTS, 1))
    assert entry is not None
    await store.txn([], [Put(layout.project_key(ProjectName("rival"), Purpose.ARTIFACTS, 1), entry.value)])
    with pytest.raises(FailedPrecondition) as caught:
        await keys.keys("rival", Purpose.ARTIFACTS)
    assert caught.value.reason == "SEALED_DATA_TAMPERED"
    assert key.key  # of acme all is well
    assert await keys_over(store).keys("acme", Purpose.ARTIFACTS) == [key]


async def test_after_a_rotation_the_new_key_seals_and_the_former_opens(store: MemoryKV) -> None:
    keys, replica = keys_over(store), keys_over(store)
    before = await keys.seal("acme", b"before", PLACE)
    await asyncio.gather(keys.rotate("acme"), replica.rotate("acme"))
    after = await replica.seal("acme", b"after", PLACE)
    assert (version_of(before), version_of(after)) == (1, 2)
    assert await replica.open("acme", before, PLACE) == b"before"
    assert await keys.open("acme", after, PLACE) == b"after"


async def test_former_keys_of_artifacts_go_once_nothing_needs_them(store: MemoryKV) -> None:
    clock = ManualClock()
    keys = ProjectKeys(store, KeyFile.of({"old": OLD}), AuditTrail(store, clock, b"h" * 32), clock)
    encryption = ProjectEncryption(keys, KeyFile.of({"old": OLD}), clock, timedelta(hours=1))
    (first,) = await keys.keys("acme", Purpose.ARTIFACTS)
    await keys.rotate("acme")
    newest = (await keys.keys("acme", Purpose.ARTIFACTS))[0]
    begin = (await keys.records("acme", Purpose.ARTIFACTS))[0].create_time
    acme = ProjectName("acme")
    early, later = type(begin)(), type(begin)()
    early.FromDatetime(begin.ToDatetime(tzinfo=UTC) + timedelta(minutes=59))
    later.FromDatetime(begin.ToDatetime(tzinfo=UTC) + timedelta(minutes=61))
    assert not await encryption.rewrapped(acme, newest.key_id, early)  # somebody may not have heard of it
    assert not await encryption.rewrapped(acme, first.key_id, later)  # not the newest any more
    assert len(await keys.keys("acme", Purpose.ARTIFACTS)) == 2
    assert await encryption.rewrapped(acme, newest.key_id, later) == [first.key_id]
    assert await keys.keys("acme", Purpose.ARTIFACTS) == [newest]
    assert len(await keys.keys("acme", Purpose.DATA)) == 2  # of those nobody has said anything
    assert not await encryption.rewrapped(acme, newest.key_id, later)


async def test_a_provider_key_is_rotated_without_touching_what_is_sealed(store: MemoryKV) -> None:
    sealed = await keys_over(store).seal("acme", b"value", PLACE)
    await keys_over(store).keys("rival", Purpose.ARTIFACTS)
    with pytest.raises(FailedPrecondition):
        await keys_over(store, {"new": NEW}).open("acme", sealed, PLACE)  # control
    both = keys_over(store, {"new": NEW, "old": OLD})
    assert await both.open("acme", sealed, PLACE) == b"value"
    assert await both.rewrap() == 2
    assert await both.rewrap() == 0
    assert await keys_over(store, {"new": NEW}).open("acme", sealed, PLACE) == b"value"
    with pytest.raises(FailedPrecondition):
        await keys_over(store, {"old": OLD}).open("acme", sealed, PLACE)


async def test_rewrapping_that_is_stopped_anywhere_goes_on_where_it_was() -> None:
    async with MemoryKV() as kv:
        names = [f"project-{number}" for number in range(6)]
        for name in names:
            await kv.txn([], [Put(layout.project(ProjectName(name)), b"")])
        sealed = {name: await keys_over(kv).seal(name, name.encode(), PLACE) for name in names}
        fails = _FailingKV(kv)
        rounds = 0
        while True:
            rounds += 1
            fails.after = 2
            try:
                await keys_over(fails, {"new": NEW, "old": OLD}).rewrap()  # type: ignore[arg-type]
            except OutcomeUnknown:
                for name, each in sealed.items():  # half-way, everything opens
                    assert await keys_over(kv, {"new": NEW, "old": OLD}).open(name, each, PLACE) == name.encode()
                continue
            break
        assert rounds >= 3
        for name, each in sealed.items():
            assert await keys_over(kv, {"new": NEW}).open(name, each, PLACE) == name.encode()


class _FailingKV:
    """A store whose transactions fail, every so many: every other time after they were carried out."""

    def __init__(self, kv: MemoryKV) -> None:
        self._kv, self.after, self._count = kv, 0, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._kv, name)

    async def txn(self, *arguments: object) -> object:
        self.after -= 1
        if self.after >= 0:
            return await self._kv.txn(*arguments)  # type: ignore[arg-type]
        self._count += 1
        if self._count % 2:
            await self._kv.txn(*arguments)  # type: ignore[arg-type]
        raise OutcomeUnknown("it was stopped here")


async def test_after_shredding_nothing_of_the_project_opens_anywhere(store: MemoryKV) -> None:
    keys, replica = keys_over(store), keys_over(store)
    sealed, other = await keys.seal("acme", b"value", PLACE), await keys.seal("rival", b"other", PLACE)
    assert await replica.open("acme", sealed, PLACE) == b"value"  # it has the key in memory now
    (artifacts,) = await replica.keys("acme", Purpose.ARTIFACTS)
    await keys.shred("acme")
    for each in (keys, replica, keys_over(store)):
        for attempt in (
            each.open("acme", sealed, PLACE),
            each.seal("acme", b"new", PLACE),
            each.keys("acme", Purpose.ARTIFACTS),
            each.rotate("acme"),
        ):
            with pytest.raises(FailedPrecondition) as caught:
                await attempt
            assert caught.value.reason == "PROJECT_SHREDDED"
        assert await each.open("rival", other, PLACE) == b"other"
    told = await keys.shredded("acme")
    assert told is not None
    assert artifacts.key_id in told.key_ids
    assert not [entry.key for entry in (await list_all(store, layout.project_keys(ProjectName("acme")))).entries]


async def test_shredding_is_recorded_with_the_ids_of_what_was_destroyed(store: MemoryKV) -> None:
    keys = keys_over(store)
    ids = [key.key_id for purpose in Purpose for key in await keys.keys("acme", purpose)]
    await keys.shred("acme")
    (record,) = [each for each in await records_of(store) if "destroyed" in each.reason]
    assert record.resource == "projects/acme"
    assert record.reason == f"2 keys destroyed: {' '.join(sorted(ids, key=record.reason.index))}"
    made = {each.reason for each in await records_of(store) if each.action == "projectKeys.make"}
    assert made == set(ids)  # so the log says of every key when it began and when it ended
    await keys.shred("acme")  # again: nothing is left to destroy, and the first marks stay
    told = await keys.shredded("acme")
    assert told is not None
    assert sorted(told.key_ids) == sorted(ids)
    assert (await records_of(store))[-1].reason == "there were no keys"


async def test_a_key_that_is_made_while_its_project_is_shredded_does_not_survive(store: MemoryKV) -> None:
    outcomes = []
    for _ in range(20):
        async with MemoryKV() as kv:
            await kv.txn([], [Put(layout.project(ProjectName("acme")), b"")])
            one, two = keys_over(kv), keys_over(kv)
            await asyncio.gather(one.keys("acme", Purpose.DATA), two.shred("acme"), return_exceptions=True)
            outcomes.append(await two.shredded("acme") is not None)
            with pytest.raises(LeptonError):
                await one.seal("acme", b"value", PLACE)
            assert not (await list_all(kv, layout.PROJECT_KEYS)).entries
    assert all(outcomes)


async def test_a_copy_of_the_store_is_of_no_use_once_the_provider_key_is_retired(store: MemoryKV) -> None:
    keys = keys_over(store)
    sealed, other = await keys.seal("acme", b"value", PLACE), await keys.seal("rival", b"other", PLACE)
    copy = await copied(store)
    await keys.shred("acme")
    assert await keys_over(copy).open("acme", sealed, PLACE) == b"value"  # the negative control: shredding alone
    rotated = {"new": NEW, "old": OLD}
    await keys_over(store, rotated).rewrap()
    assert await keys_over(copy, rotated).open("acme", sealed, PLACE) == b"value"  # nor with the former key kept
    retired = {"new": NEW}
    with pytest.raises(FailedPrecondition) as caught:
        await keys_over(copy, retired).open("acme", sealed, PLACE)
    assert caught.value.reason == "ARTIFACT_KEY_MISSING"
    assert await keys_over(store, retired).open("rival", other, PLACE) == b"other"


async def test_what_the_key_encryption_key_began_a_keyring_goes_on_with(store: MemoryKV) -> None:
    """The settings of a deployment that existed before: no keyring, then one."""
    sealed = await keys_over(store, {"kek": OLD}).seal("acme", b"value", PLACE)
    clock = ManualClock()
    succession = Succession([KeyFile.of({"ring": NEW}), KeyFile.of({"kek": OLD})])
    keys = ProjectKeys(store, succession, AuditTrail(store, clock, b"h" * 32), clock)
    assert await keys.open("acme", sealed, PLACE) == b"value"
    assert await keys.rewrap() == 1
    assert await keys_over(store, {"ring": NEW}).open("acme", sealed, PLACE) == b"value"
