"""The audit log of auth: every mutation, sign-in and refusal, chained, sealed, found again, checked and exported."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chassis.kv import KV, Compare, Delete, Put, absent, list_all
from chassis.paging import Pager
from lepton.audit import exported
from lepton.audit.record import Outcome, Record
from lepton.audit.verify import Body, Kind
from lepton.auth.v1 import audit_service_pb2 as pb
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.errors import InvalidArgument, NotFound, PermissionDenied, Unauthenticated, Unavailable
from lepton.internal.v1.audit_feed_pb2 import AppendAuditRequest, AuditBlock, AuditEntry, AuditHead, AuditSource
from lepton.internal.v1.credentials_pb2 import SigningKeyRecord
from services.auth import layout
from services.auth.audit import AuditTrail, Deed
from services.auth.audit_log import stored
from services.auth.audit_log.check import AuditCheck
from services.auth.audit_log.feed import AuditFeed
from services.auth.audit_log.keys import AuditKeys, key_id_of, verifies
from services.auth.audit_log.query import AuditQuery
from services.auth.audit_log.repair import repair
from services.auth.audit_log.sealer import Sealer, Sealing
from services.auth.kek import Kek
from tests.auth.test_directory import PASSWORD, project, user
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.clock import ManualClock
from tests.harness.crashes import Crash, MortalKV, Steps
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

KEY = b"k" * 32
SPOOL = "0123456789abcdef0123456789abcdef"
Finding = pb.VerifyAuditResponse.Finding


async def stored_records(kv: KV) -> list[Record]:
    """Everything in the store, sealed or not."""
    blocks, revision = await stored.read_blocks(kv)
    records = []
    for batch in await stored.read_batches(kv, revision=revision):
        body = await stored.read_body(kv, batch.index, revision)
        records += [Record.parse(data) for data in body.records] if body is not None else []
    return records + [Record.parse(data) for data in stored.records_in(blocks)]


async def findings(auth: RunningAuth, **request: Any) -> Sequence[Any]:
    answer = await (await auth.admin()).audit.VerifyAudit(pb.VerifyAuditRequest(**request))
    found: Sequence[Any] = answer.findings
    return found


async def query(stubs: Any, **fields: Any) -> list[Any]:
    records: list[Any] = []
    request = pb.QueryAuditRequest(**fields)
    while True:
        answer = await stubs.audit.QueryAudit(request)
        records += answer.audit_records
        if not answer.next_page_token:
            return records
        request.page_token = answer.next_page_token


class Bench:
    """The log alone: a trail, a sealer and a check over a store, on a clock of the test's."""

    def __init__(self, kv: KV | None = None, **sealing: Any) -> None:
        self.kv = kv or MemoryKV()
        self.clock = ManualClock()
        self.kek = Kek(bytes(32))
        self.trail = AuditTrail(self.kv, self.clock, KEY)
        self.keys = AuditKeys(self.kv, self.kek, self.trail, self.clock, timedelta(days=90))
        self.sealer = Sealer(self.kv, self.keys, self.trail, self.clock, Sealing(**sealing))
        self.check = AuditCheck(self.kv, self.keys, self.trail)
        self.feed = AuditFeed(self.kv, self.trail, self.clock)

    async def write(self, count: int, name: str = "r") -> None:
        for number in range(count):
            await self.trail.commit(Deed(resource=f"projects/acme/jobs/{name}{number}", actor="users/a", action="x"))

    async def sealed(self, *counts: int) -> None:
        await self.keys.refresh()
        for count in counts:
            await self.write(count)
            await self.sealer.seal(now=True)

    async def found(self) -> list[tuple[Kind, int, int]]:
        return [(each.kind, each.first, each.last) for each in (await self.check.verify()).findings]


# -- what is recorded ---------------------------------------------------------------------------------------------


async def test_every_mutation_sign_in_and_refusal_is_recorded_in_one_log(auth: RunningAuth) -> None:
    admin = await auth.admin()
    await project(auth, "acme")
    alice = await user(auth, "alice", "roles/viewer", "acme")
    with pytest.raises(Unauthenticated):
        await auth.sign_in("users/alice", "wrong password")
    with pytest.raises(PermissionDenied):
        await alice.directory.DeleteProject(directory.DeleteProjectRequest(name="projects/acme"))
    with pytest.raises(NotFound):
        await alice.directory.GetProject(directory.GetProjectRequest(name="projects/secret"))
    with pytest.raises(Unauthenticated):
        await (await auth.client("not-a-token")).directory.ListProjects(directory.ListProjectsRequest())
    await alice.sessions.SignOut(sessions.SignOutRequest())
    await auth.join("agent/n1")
    await admin.directory.DeleteProject(directory.DeleteProjectRequest(name="projects/acme"))

    expected = {
        ("init", "users/admin", "local/init", Outcome.SUCCEEDED),
        ("SignIn", "users/admin", "users/admin", Outcome.SUCCEEDED),
        ("CreateProject", "projects/acme", "users/admin", Outcome.SUCCEEDED),
        ("CreateUser", "users/alice", "users/admin", Outcome.SUCCEEDED),
        ("CreateRoleBinding", "projects/acme/roleBindings/b-alice", "users/admin", Outcome.SUCCEEDED),
        ("SignIn", "users/alice", "", Outcome.REFUSED),
        ("DeleteProject", "projects/acme", "users/alice", Outcome.REFUSED),
        ("GetProject", "projects/secret", "users/alice", Outcome.REFUSED),
        ("ListProjects", "", "", Outcome.REFUSED),
        ("SignOut", "users/alice", "users/alice", Outcome.SUCCEEDED),
        ("IssueCertificate", "agent/n1", "agent/n1", Outcome.SUCCEEDED),
        ("DeleteProject", "projects/acme", "users/admin", Outcome.SUCCEEDED),
    }

    async def done() -> set[tuple[str, str, str, Outcome]]:
        records = await stored_records(auth.kv)
        return {(each.action.rpartition("/")[2], each.resource, each.actor, each.outcome) for each in records}

    async def is_complete() -> bool:
        return expected <= await done()

    await until(is_complete, 5)
    records = await stored_records(auth.kv)
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    assert await findings(auth) == []
    by_rpc = [record for record in records if record.action.startswith("lepton.")]
    assert all(record.source.startswith("ipv4:127.0.0.1") for record in by_rpc)
    refused = [record for record in records if record.outcome is Outcome.REFUSED and record.action.endswith("tProject")]
    assert {record.reason for record in refused} == {"PROJECT_NOT_FOUND"}
    assert all(record.policy_revision > 0 for record in refused)


async def test_a_record_names_the_trace_of_its_call(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    request = directory.CreateProjectRequest(project_id="acme")
    await admin.directory.CreateProject(request, metadata=(("traceparent", trace),))
    found = await query(admin, trace_id="4bf92f3577b34da6a3ce929d0e0e4736")
    assert [record.resource for record in found] == ["projects/acme"]


async def test_what_a_mutation_did_is_recorded_once(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    admin = await memory_auth.admin()
    with pytest.raises(NotFound):
        await admin.directory.DeleteProject(directory.DeleteProjectRequest(name="projects/none"))

    async def outcomes() -> list[tuple[str, Outcome, str]]:
        records = await stored_records(memory_auth.kv)
        wanted = ("CreateProject", "DeleteProject")
        return [
            (each.action.rpartition("/")[2], each.outcome, each.reason)
            for each in records
            if each.action.rpartition("/")[2] in wanted
        ]

    async def is_there() -> bool:
        return len(await outcomes()) >= 2

    await until(is_there, 5)
    assert await outcomes() == [
        ("CreateProject", Outcome.SUCCEEDED, ""),
        ("DeleteProject", Outcome.FAILED, "PROJECT_NOT_FOUND"),
    ]


async def test_a_secret_never_reaches_the_log(memory_auth: RunningAuth, tmp_path: Path) -> None:
    canary = "c4n4ry0123456789"
    admin = await memory_auth.admin()
    for user_id in (f"lpk_{canary}", f"Bearer {canary}"):
        credential = sessions.PasswordCredential(user=f"users/{user_id}", password=canary)
        with pytest.raises((Unauthenticated, InvalidArgument)):
            await (await memory_auth.client()).sessions.SignIn(sessions.SignInRequest(password=credential))
    with pytest.raises((Unauthenticated, InvalidArgument)):
        await (await memory_auth.client()).sessions.SignIn(sessions.SignInRequest(api_key=f"lpk_{canary}_x"))
    stranger = await memory_auth.client(f"eyJ{canary}.{canary}.{canary}")
    with pytest.raises(Unauthenticated):
        await stranger.directory.ListProjects(directory.ListProjectsRequest())
    with pytest.raises((NotFound, InvalidArgument, PermissionDenied)):
        await admin.directory.GetProject(directory.GetProjectRequest(name=f"projects/lpk_{canary}"))
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="bob", password=f"{canary}{canary}"))

    async def is_there() -> bool:
        return any(each.action.endswith("ListProjects") for each in await stored_records(memory_auth.kv))

    await until(is_there, 5)
    log = b"".join(each.canonical() for each in await stored_records(memory_auth.kv))
    spools = b"".join(path.read_bytes() for path in tmp_path.rglob("*.spool"))  # noqa: ASYNC240
    assert b"ListProjects" in log
    assert canary.encode() not in log + spools


# -- the trail ----------------------------------------------------------------------------------------------------


async def test_replicas_that_write_at_once_make_one_chain(kv: KV) -> None:
    trails = [AuditTrail(kv, ManualClock(), KEY) for _ in range(4)]

    async def write(audit: AuditTrail, number: int) -> None:
        for at in range(10):
            await audit.commit(Deed(resource=f"{number}/{at}"), [], [Put(f"/lepton/auth/x/{number}/{at}", b"x")])

    await asyncio.gather(*(write(each, number) for number, each in enumerate(trails)))
    bench = Bench(kv)
    assert len(await stored_records(kv)) == 40
    assert await bench.found() == []


async def test_what_is_not_done_is_not_recorded() -> None:
    bench = Bench()
    await bench.trail.commit(Deed(resource="first"), [absent("/x")], [Put("/x", b"1")])
    conditions: list[Compare] = [absent("/x")]
    done = await bench.trail.commit(Deed(resource="second"), conditions, [Put("/x", b"2")])
    assert not done.succeeded
    assert [record.resource for record in await stored_records(bench.kv)] == ["first"]


async def test_a_log_whose_head_was_changed_is_not_written_on() -> None:
    bench = Bench()
    await bench.sealed(3)
    for value in (AuditHead(sequence=1, digest=bytes(32), writes=2, mac=b"x").SerializeToString(), None):
        await bench.kv.txn([], [Put(layout.AUDIT_HEAD, value) if value is not None else Delete(layout.AUDIT_HEAD)])
        with pytest.raises(Unavailable) as caught:
            await AuditTrail(bench.kv, bench.clock, KEY).commit(Deed(resource="x"))
        assert caught.value.reason == "AUDIT_UNAVAILABLE"


async def test_a_log_that_was_changed_goes_on_behind_what_holds_and_keeps_the_evidence() -> None:
    bench = Bench()
    await bench.sealed(3)
    await bench.write(3)  # 5, 6, 7
    blocks, _ = await stored.read_blocks(bench.kv)
    changed = blocks[1].value.replace(b"users/a", b"users/b")
    await bench.kv.txn([], [Put(blocks[1].key, changed), Delete(layout.AUDIT_HEAD)])
    fresh = Bench(bench.kv)
    await fresh.keys.refresh()
    with pytest.raises(Unavailable):
        await fresh.write(1)
    assert await repair(fresh.kv, fresh.trail) == "goes on behind record 5; 2 blocks were set aside"
    await fresh.write(2)
    assert await fresh.found() == []
    assert await fresh.sealer.seal(now=True) is not None
    assert [each.action for each in await stored_records(fresh.kv)][5:] == ["audit.repair", "x", "x"]
    assert len((await list_all(fresh.kv, f"{layout.AUDIT}aside/")).entries) == 2


# -- what other services hand over --------------------------------------------------------------------------------


def entries(first: int, last: int) -> list[AuditEntry]:
    return [
        AuditEntry(
            number=number, time_ns=number, outcome=1, count=1, actor="users/a", action="x", resource=f"r{number}"
        )
        for number in range(first, last + 1)
    ]


async def test_entries_are_appended_once_whoever_takes_them() -> None:
    bench = Bench()
    other = AuditFeed(bench.kv, AuditTrail(bench.kv, bench.clock, KEY), bench.clock)
    assert await bench.feed.append("trainer", SPOOL, entries(1, 5)) == 5
    assert await other.append("trainer", SPOOL, entries(3, 8)) == 8
    assert await bench.feed.append("trainer", SPOOL, entries(1, 8)) == 8
    await asyncio.gather(*(each.append("trainer", SPOOL, entries(9, 20)) for each in (bench.feed, other)))
    records = await stored_records(bench.kv)
    assert [record.resource for record in records] == [f"r{number}" for number in range(1, 21)]
    assert {record.service for record in records} == {"trainer"}
    assert await bench.found() == []


async def test_entries_that_never_come_leave_a_record_of_their_absence() -> None:
    bench = Bench()
    await bench.feed.append("trainer", SPOOL, entries(1, 2))
    await bench.feed.append("trainer", SPOOL, entries(5, 5))
    gap = (await stored_records(bench.kv))[2]
    assert (gap.action, gap.outcome, gap.reason) == ("audit.gap", Outcome.INTERRUPTED, "entries 3-4 were lost")


async def test_only_services_feed_the_log_and_under_their_own_name(memory_auth: RunningAuth) -> None:
    async def append(stubs: Any) -> int:
        async def requests() -> Any:
            for at in (1, 3):
                yield AppendAuditRequest(spool=SPOOL, entries=entries(at, at + 1))

        return int((await stubs.feed.AppendAudit(requests(), timeout=5)).number)

    trainer = await memory_auth.peer(await memory_auth.join("service/trainer"))
    assert await append(trainer) == 4
    agent = await memory_auth.peer(await memory_auth.join("agent/n1"))
    with pytest.raises(PermissionDenied):
        await append(agent)
    admin = await memory_auth.admin()
    with pytest.raises(PermissionDenied):
        await append(admin)
    found = await query(admin, actor="users/a")
    assert [(record.service, record.resource) for record in found] == [("trainer", f"r{at}") for at in range(1, 5)]


# -- sealing and checking -----------------------------------------------------------------------------------------


async def test_records_are_sealed_when_they_are_many_or_old(kv: KV) -> None:
    bench = Bench(kv, records=4, within=timedelta(seconds=5))
    await bench.keys.refresh()  # its own record is the first
    await bench.write(2)
    assert await bench.sealer.seal() is None
    await bench.write(1)
    batch = await bench.sealer.seal()
    assert batch is not None
    assert (batch.first, batch.last) == (1, 4)
    await bench.write(1)
    assert await bench.sealer.seal() is None
    await bench.clock.advance(5)
    batch = await bench.sealer.seal()
    assert batch is not None
    assert (batch.index, batch.first, batch.last) == (1, 5, 5)
    assert await bench.found() == []


async def test_replicas_that_seal_at_once_make_one_log(kv: KV) -> None:
    bench = Bench(kv)
    await bench.sealed(3)
    others = [Sealer(kv, bench.keys, bench.trail, bench.clock, Sealing()) for _ in range(4)]
    for _ in range(5):
        await bench.write(3)
        await asyncio.gather(*(each.seal(now=True) for each in others))
    verdict = await bench.check.verify()
    assert verdict.findings == []
    assert verdict.checked == 19


async def replace_body(bench: Bench, index: int, change: Any) -> None:
    body = await stored.read_body(bench.kv, index)
    assert body is not None
    records, leaves = list(body.records), list(body.leaves)
    change(records, leaves)
    put = Put(layout.audit_body(index), stored.pack(Body(records=records, leaves=leaves)))
    await bench.kv.txn([], [put])


async def test_tampering_in_the_store_is_found_and_located() -> None:
    def edited(records: list[bytes], leaves: list[bytes]) -> None:
        records[2] = records[2].replace(b"users/a", b"users/b")

    def removed(records: list[bytes], leaves: list[bytes]) -> None:
        del records[1]

    def swapped(records: list[bytes], leaves: list[bytes]) -> None:
        records[1], records[3] = records[3], records[1]

    for change, expected in (
        (edited, [(Kind.EDITED, 8, 8)]),
        (removed, [(Kind.DELETED, 7, 7)]),
        (swapped, [(Kind.REORDERED, 8, 9), (Kind.REORDERED, 7, 8)]),
    ):
        bench = Bench()
        await bench.sealed(4, 5, 3)  # 1 to 5 with the key's own record, 6 to 10, 11 to 13
        assert await bench.found() == []
        await replace_body(bench, 1, change)
        assert sorted(await bench.found()) == sorted(expected)


async def test_a_truncated_store_is_found_by_the_anchor_and_not_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    await bench.sealed(4, 5)
    head, anchor = await bench.kv.get(layout.AUDIT_HEAD), await bench.kv.get(layout.AUDIT_ANCHOR)
    assert head is not None
    assert anchor is not None
    await bench.sealed(3)
    gone = [Delete(layout.audit_batch(2)), Delete(layout.audit_body(2))]
    await bench.kv.txn([], gone)
    assert (Kind.TRUNCATED, 11, 13) in await bench.found()
    # Who can write to the store sets head and anchor back too: the store has counted how often they were written.
    await bench.kv.txn([], [Put(layout.AUDIT_HEAD, head.value), Put(layout.AUDIT_ANCHOR, anchor.value)])
    found = await bench.found()
    assert {kind for kind, _, _ in found} == {Kind.FORGED}
    # The negative control: without anchor and head the shorter log holds.
    monkeypatch.setattr("services.auth.audit_log.check._ends", lambda *_, **__: iter(()))
    assert await bench.found() == []


async def test_the_newest_records_cannot_be_cut_off_before_they_are_sealed() -> None:
    bench = Bench()
    await bench.sealed(2)
    await bench.write(3)  # 4, 5, 6
    blocks, _ = await stored.read_blocks(bench.kv)
    await bench.kv.txn([], [Delete(blocks[-1].key)])
    assert await bench.found() == [(Kind.TRUNCATED, 6, 6)]


async def test_what_was_changed_before_it_was_sealed_is_not_signed() -> None:
    bench = Bench()
    await bench.sealed(2)
    await bench.write(3)
    blocks, _ = await stored.read_blocks(bench.kv)
    block = AuditBlock.FromString(blocks[0].value)
    block.records[0] = block.records[0].replace(b"users/a", b"users/b")
    await bench.kv.txn([], [Put(blocks[0].key, block.SerializeToString())])
    assert await bench.sealer.seal(now=True) is None
    assert (Kind.EDITED, 4, 5) in await bench.found()


async def test_a_log_rolled_back_whole_is_found_by_who_saw_it_longer() -> None:
    bench = Bench()
    await bench.sealed(4)
    snapshot = [Put(entry.key, entry.value) for entry in (await list_all(bench.kv, layout.AUDIT)).entries]
    await bench.sealed(4)
    known = (await bench.check.verify()).head
    other = Bench(MemoryKV())  # an attacker's own store, where every key was written as often as it should be
    await other.kv.txn([], snapshot)
    found = (await other.check.verify(known=known)).findings
    assert (Kind.TRUNCATED, 6, 9) in [(each.kind, each.first, each.last) for each in found]


async def test_keys_are_replaced_and_only_ours_count() -> None:
    bench = Bench()
    await bench.sealed(3)
    first = bench.keys.newest
    await bench.clock.advance(91 * 86_400)
    await bench.sealed(3)
    assert bench.keys.newest != first
    assert await bench.found() == []
    assert bench.keys.is_signed(first, b"data", bench.keys.sign(first, b"data"))
    # A key that somebody put there who has not our key-encryption key counts for nothing.
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    key = layout.audit_key(key_id_of(public))
    sealed = Kek(b"x" * 32).seal(private.private_bytes_raw(), key)
    record = SigningKeyRecord(kid=key_id_of(public), public_key=public, private_key=sealed)
    await bench.kv.txn([], [Put(key, record.SerializeToString())])
    await bench.keys.refresh()
    assert not bench.keys.is_signed(key_id_of(public), b"data", private.sign(b"data"))
    await bench.kv.txn([], [Delete(layout.audit_key(first))])
    fresh = Bench(bench.kv)
    assert {kind for kind, _, _ in await fresh.found()} == {Kind.FORGED}


async def test_old_records_are_deleted_with_a_tombstone_and_the_log_still_holds() -> None:
    bench = Bench(keep=timedelta(days=30))
    await bench.sealed(4, 5)
    await bench.clock.advance(20 * 86_400)
    await bench.sealed(3)
    assert await bench.sealer.expire() == 0
    await bench.clock.advance(11 * 86_400)
    assert await bench.sealer.expire() == 2
    assert await bench.sealer.expire() == 0
    verdict = await bench.check.verify()
    assert verdict.findings == []
    assert [(each.first, each.last, each.policy) for each in verdict.tombstones] == [
        (1, 5, "kept for 30 days, 0:00:00"),
        (6, 10, "kept for 30 days, 0:00:00"),
    ]
    assert [record.action for record in await stored_records(bench.kv)].count("audit.expire") == 2
    # Without its tombstone the same deletion is tampering.
    await bench.kv.txn([], [Delete(layout.audit_tombstone(1))])
    assert await bench.found() == [(Kind.DELETED, 6, 10)]


# -- reading ------------------------------------------------------------------------------------------------------


async def test_records_are_found_by_every_condition_in_pages(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    for at in range(7):
        await project(memory_auth, f"p{at}")
    made = await query(admin, action="CreateProject", page_size=2)
    assert [record.resource for record in made] == [f"projects/p{at}" for at in range(7)]
    newest = await query(admin, action="lepton.auth.v1.DirectoryService/CreateProject", page_size=3, newest_first=True)
    assert [record.resource for record in newest] == [f"projects/p{at}" for at in reversed(range(7))]
    assert [record.resource for record in await query(admin, resource="projects/p3")] == ["projects/p3"]
    assert {record.actor for record in await query(admin, actor="users/admin")} == {"users/admin"}
    assert {record.outcome for record in await query(admin, outcome=pb.AuditRecord.SUCCEEDED)} == {1}
    assert [each.sequence for each in await query(admin, after=made[-1].sequence)] == []
    between = await query(admin, start_time=made[2].time, end_time=made[5].time, action="CreateProject")
    assert [record.resource for record in between] == ["projects/p2", "projects/p3", "projects/p4"]
    first = await admin.audit.QueryAudit(pb.QueryAuditRequest(page_size=2))
    other = pb.QueryAuditRequest(page_token=first.next_page_token, actor="users/admin")
    with pytest.raises(InvalidArgument) as caught:
        await admin.audit.QueryAudit(other)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def test_a_page_goes_on_while_records_are_sealed() -> None:
    bench = Bench()
    await bench.sealed(3)
    await bench.write(5)
    reader = AuditQuery(bench.kv, Pager(bench.kv, KEY))
    request = pb.QueryAuditRequest(page_size=3)
    seen = []
    while True:
        records, request.page_token = await reader.page(request)
        seen += [record.sequence for record in records]
        await bench.sealer.seal(now=True)
        if not request.page_token:
            break
    assert seen == list(range(1, 10))


async def test_a_tenant_sees_the_records_of_its_own_project_only(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    await project(memory_auth, "beta")
    alice = await user(memory_auth, "alice", "roles/admin", "acme")
    await user(memory_auth, "bob", "roles/admin", "beta")
    alice = await memory_auth.client((await memory_auth.sign_in("users/alice", PASSWORD)).access_token)
    own = await query(alice, parent="projects/acme")
    assert own
    assert all((record.resource + "/").startswith("projects/acme/") for record in own)
    assert not any(record.digest or record.previous for record in own)
    for fields in ({"resource": "projects/beta"}, {"actor": "users/bob"}, {"action": "SignIn"}):
        assert await query(alice, parent="projects/acme", **fields) == []
    with pytest.raises(NotFound) as foreign:
        await query(alice, parent="projects/beta")
    with pytest.raises(NotFound) as absent_one:
        await query(alice, parent="projects/gamma")
    assert str(foreign.value).replace("beta", "*") == str(absent_one.value).replace("gamma", "*")
    for call in (
        alice.audit.QueryAudit(pb.QueryAuditRequest()),
        alice.audit.VerifyAudit(pb.VerifyAuditRequest()),
    ):
        with pytest.raises(PermissionDenied):
            await call
    with pytest.raises(PermissionDenied):
        async for _ in alice.audit.ExportAudit(pb.ExportAuditRequest()):
            pass


async def test_an_export_is_checked_without_the_service(memory_auth: RunningAuth, tmp_path: Path) -> None:
    await project(memory_auth, "acme")
    admin = await memory_auth.admin()
    file = tmp_path / "audit.jsonl"
    with file.open("w") as out:
        async for part in admin.audit.ExportAudit(pb.ExportAuditRequest()):
            exported.write_line(out, part)
    found = exported.read(file.read_text().splitlines())
    assert found.records == found.log.head.sequence  # type: ignore[union-attr]
    assert found.check(verifies) == []
    with pytest.raises(InvalidArgument) as caught:
        exported.read(file.read_text().splitlines()[:-1])
    assert caught.value.reason == "AUDIT_EXPORT_INVALID"


async def test_auth_that_was_killed_goes_on_with_a_log_that_holds(kv: KV, tmp_path: Path) -> None:
    for round_number in range(3):
        async with running_auth(kv, tmp_path) as auth:
            await project(auth, f"p{round_number}")
            with pytest.raises(Unauthenticated):
                await auth.sign_in("users/nobody", "wrong password")
            assert await findings(auth) == []


# -- crashes of auth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_auth_dies_at_any_write_and_every_entry_is_in_the_log_once(after: bool) -> None:
    """A service hands over again what was not acknowledged; the next process of auth knows what it has."""
    at, is_over = 0, False
    while not is_over:
        at += 1
        steps, kv = Steps(at, after=after), MemoryKV()
        acknowledged = 0
        for life in range(3):
            mortal: Any = MortalKV(kv, steps)
            bench = Bench(mortal)
            try:
                await bench.keys.refresh()
                for last in (4, 9, 15):
                    acknowledged = await bench.feed.append("trainer", SPOOL, entries(1, last))
                    await bench.sealer.seal(now=True)
                break
            except Crash:
                assert life == 0, "dies once"
        is_over = steps.taken < at
        bench = Bench(kv)
        await bench.keys.refresh()
        assert acknowledged == 15
        assert await bench.found() == []
        numbers = [record.resource for record in await stored_records(kv) if record.service == "trainer"]
        assert numbers == [f"r{number}" for number in range(1, 16)]
    assert at > 6


async def test_without_the_mark_of_what_is_known_a_repeat_is_recorded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr("services.auth.audit_log.feed.AuditSource.FromString", lambda _: AuditSource())
    await bench.feed.append("trainer", SPOOL, entries(1, 4))
    await bench.feed.append("trainer", SPOOL, entries(1, 4))
    assert len(await stored_records(bench.kv)) == 8
