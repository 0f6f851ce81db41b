"""Replicas hold nothing of their own: they serve side by side, and a new one goes on where the old one ended."""

import asyncio
from pathlib import Path

import pytest

from chassis.kv import KV
from lepton.audit.record import Outcome
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1 import identity_service_pb2 as identity
from lepton.auth.v1 import session_service_pb2 as sessions
from lepton.errors import AlreadyExists, Unauthenticated
from services.auth.kek import KekError
from tests.auth.test_audit import findings, stored_records
from tests.auth.test_directory import PASSWORD
from tests.auth.test_identity import csr
from tests.harness.auth import running_auth
from tests.harness.wait import until


async def test_a_restart_keeps_everything(kv: KV, tmp_path: Path) -> None:
    async with running_auth(kv, tmp_path) as auth:
        admin = await auth.admin()
        project = await admin.directory.CreateProject(directory.CreateProjectRequest(project_id="acme"))
        await admin.directory.CreateUser(directory.CreateUserRequest(user_id="alice", password=PASSWORD))
        session, bundle = await auth.sign_in(), auth.bundle_pem
        member, unused = await auth.join("service/trainer"), await auth.join_token("agent/n1")
    async with running_auth(kv, tmp_path) as auth:
        assert auth.bundle_pem == bundle
        stubs = await auth.client(session.access_token)
        assert await stubs.directory.GetProject(directory.GetProjectRequest(name="projects/acme")) == project
        await auth.sign_in("users/alice", PASSWORD)
        refreshed = sessions.RefreshSessionRequest(refresh_token=session.refresh_token)
        await stubs.sessions.RefreshSession(refreshed)
        peer = await auth.peer(member)
        await peer.identity.RenewCertificate(identity.RenewCertificateRequest(csr_pem=csr()))
        await stubs.identity.IssueCertificate(identity.IssueCertificateRequest(join_token=unused, csr_pem=csr()))
        assert await findings(auth) == []


async def test_two_replicas_serve_side_by_side(kv: KV, tmp_path: Path) -> None:
    async with running_auth(kv, tmp_path, replica="a") as one, running_auth(kv, tmp_path, replica="b") as two:
        session = await one.sign_in()
        here, there = await one.client(session.access_token), await two.client(session.access_token)
        await here.directory.CreateProject(directory.CreateProjectRequest(project_id="acme"))
        assert (await there.directory.GetProject(directory.GetProjectRequest(name="projects/acme"))).uid
        next_session = await there.sessions.RefreshSession(
            sessions.RefreshSessionRequest(refresh_token=session.refresh_token)
        )
        await (await two.client(next_session.access_token)).sessions.SignOut(sessions.SignOutRequest())
        revoked = one.app.access

        def is_known() -> bool:
            try:
                revoked.verify(next_session.access_token)
            except Unauthenticated:
                return True
            return False

        await until(is_known, 5)


async def test_replicas_that_create_the_same_project_at_once_make_one(kv: KV, tmp_path: Path) -> None:
    async with running_auth(kv, tmp_path, replica="a") as one, running_auth(kv, tmp_path, replica="b") as two:
        admins = [await one.admin(), await two.admin()]
        request = directory.CreateProjectRequest(project_id="acme")

        async def create(at: int) -> object:
            return await admins[at].directory.CreateProject(request)

        answers = await asyncio.gather(*(create(at % 2) for at in range(6)), return_exceptions=True)
        assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
        assert sum(isinstance(answer, AlreadyExists) for answer in answers) == 5
        assert await findings(two) == []
        made = [each for each in await stored_records(kv) if each.action.endswith("/CreateProject")]
        assert [each.outcome for each in made].count(Outcome.SUCCEEDED) == 1


async def test_a_replica_with_another_kek_does_not_start(kv: KV, tmp_path: Path) -> None:
    async with running_auth(kv, tmp_path / "a"):
        pass
    with pytest.raises(KekError):
        async with running_auth(kv, tmp_path / "b"):
            pass
