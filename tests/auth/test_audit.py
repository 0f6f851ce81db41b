"""The audit trail: a record for every mutation and sign-in, chained so that tampering shows."""

import asyncio
from pathlib import Path

import pytest

from chassis.kv import KV, Compare, Put, absent, list_all
from chassis.memory_kv import MemoryKV
from lepton.auth.v1 import audit_service_pb2 as pb
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.errors import PermissionDenied, Unauthenticated
from lepton.internal.v1.credentials_pb2 import AuditHead
from services.auth import layout
from services.auth.audit import AuditTrail, Deed, first_broken
from tests.auth.test_directory import project, user
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.clock import ManualClock


async def trail(kv: KV) -> tuple[list[pb.AuditRecord], AuditHead]:
    entries = (await list_all(kv, layout.AUDIT_RECORDS)).entries
    head = await kv.get(layout.AUDIT_HEAD)
    assert head is not None
    return [pb.AuditRecord.FromString(entry.value) for entry in entries], AuditHead.FromString(head.value)


async def test_every_mutation_and_sign_in_is_recorded_in_one_chain(auth: RunningAuth) -> None:
    admin = await auth.admin()
    await project(auth, "acme")
    alice = await user(auth, "alice", "roles/viewer", "acme")
    with pytest.raises(Unauthenticated):
        await auth.sign_in("users/alice", "wrong password")
    await alice.sessions.SignOut(sessions.SignOutRequest())
    await auth.join("agent/n1")
    await admin.directory.DeleteProject(directory.DeleteProjectRequest(name="projects/acme"))
    records, head = await trail(auth.kv)
    assert first_broken(records, head) is None
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    done = [(record.action.rpartition("/")[2], record.resource, record.actor, record.outcome) for record in records]
    assert ("init", "users/admin", "local/init", pb.AuditRecord.SUCCEEDED) in done
    assert ("SignIn", "users/admin", "users/admin", pb.AuditRecord.SUCCEEDED) in done
    assert ("CreateProject", "projects/acme", "users/admin", pb.AuditRecord.SUCCEEDED) in done
    assert ("CreateUser", "users/alice", "users/admin", pb.AuditRecord.SUCCEEDED) in done
    assert ("CreateRoleBinding", "projects/acme/roleBindings/b-alice", "users/admin", 1) in done
    assert ("SignIn", "users/alice", "", pb.AuditRecord.REFUSED) in done
    assert ("SignOut", "users/alice", "users/alice", pb.AuditRecord.SUCCEEDED) in done
    assert ("IssueCertificate", "agent/n1", "agent/n1", pb.AuditRecord.SUCCEEDED) in done
    assert ("DeleteProject", "projects/acme", "users/admin", pb.AuditRecord.SUCCEEDED) in done
    by_rpc = [record for record in records if record.action.startswith("lepton.")]
    assert all(record.source.startswith("ipv4:127.0.0.1") for record in by_rpc)


async def test_a_record_names_the_trace_of_its_call(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    request = directory.CreateProjectRequest(project_id="acme")
    await admin.directory.CreateProject(request, metadata=(("traceparent", trace),))
    records, _ = await trail(memory_auth.kv)
    assert records[-1].trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_records_are_listed_to_those_who_may(memory_auth: RunningAuth) -> None:
    admin = await memory_auth.admin()
    await project(memory_auth, "acme")
    first = await admin.audit.ListAuditRecords(pb.ListAuditRecordsRequest(page_size=2))
    assert [record.sequence for record in first.audit_records] == [1, 2]
    rest = await admin.audit.ListAuditRecords(pb.ListAuditRecordsRequest(page_token=first.next_page_token))
    assert rest.audit_records[0].sequence == 3
    alice = await user(memory_auth, "alice", "roles/admin", "acme")
    with pytest.raises(PermissionDenied):
        await alice.audit.ListAuditRecords(pb.ListAuditRecordsRequest())


async def test_tampering_shows(memory_auth: RunningAuth) -> None:
    await project(memory_auth, "acme")
    await project(memory_auth, "beta")
    records, head = await trail(memory_auth.kv)
    changed = [pb.AuditRecord.FromString(record.SerializeToString()) for record in records]
    changed[1].actor = "users/somebody-else"
    assert first_broken(changed, head) == 2
    assert first_broken(records[:1] + records[2:], head) == 2
    assert first_broken(records[:-1], head) == len(records)
    assert first_broken([*records[:1], records[2], records[1], *records[3:]], head) == 2


async def test_replicas_that_write_at_once_make_one_chain(kv: KV) -> None:
    trails = [AuditTrail(kv, ManualClock()) for _ in range(4)]

    async def write(audit: AuditTrail, number: int) -> None:
        for at in range(10):
            await audit.commit(Deed(resource=f"{number}/{at}"), [], [Put(f"/lepton/auth/x/{number}/{at}", b"x")])

    await asyncio.gather(*(write(each, number) for number, each in enumerate(trails)))
    records, head = await trail(kv)
    assert len(records) == 40
    assert first_broken(records, head) is None


async def test_what_is_not_done_is_not_recorded() -> None:
    kv = MemoryKV()
    audit = AuditTrail(kv, ManualClock())
    await audit.commit(Deed(resource="first"), [absent("/x")], [Put("/x", b"1")])
    conditions: list[Compare] = [absent("/x")]
    done = await audit.commit(Deed(resource="second"), conditions, [Put("/x", b"2")])
    assert not done.succeeded
    records, head = await trail(kv)
    assert [record.resource for record in records] == ["first"]
    assert first_broken(records, head) is None


async def test_a_repeated_request_is_recorded_once(tmp_path: Path) -> None:
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        request_id = "8c9cb2b3-9a37-4d1c-8a3a-0d1f7f5f0a11"
        for _ in range(3):
            await project(auth, "acme", request_id=request_id)
        records, _ = await trail(kv)
        assert [record.action.rpartition("/")[2] for record in records].count("CreateProject") == 1
