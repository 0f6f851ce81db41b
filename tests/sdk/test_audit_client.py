"""`lepton audit` and `client.audit`, both ways, against the real auth service in this process."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chassis.kv import Put
from lepton.audit import exported
from lepton.audit.verify import Body
from lepton.auth.v1.audit_service_pb2 import AuditRecord, VerifyAuditResponse
from lepton.cli.root import app
from lepton.client import AsyncClient, Client
from lepton.errors import PermissionDenied
from lepton.profile import Profile, write
from services.auth import layout
from services.auth.audit_log import stored
from services.auth.audit_log.keys import verifies
from services.auth.config import AuditLog
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until

pytestmark = pytest.mark.integration

Run = Callable[..., Coroutine[Any, Any, Any]]
PASSWORD = "correct horse battery"


@pytest.fixture
async def auth(tmp_path: Path) -> AsyncIterator[RunningAuth]:
    """Auth that seals at once."""
    async with (
        MemoryKV() as kv,
        running_auth(kv, tmp_path / "auth", audit_log=AuditLog(seal_within_s=0.05)) as running,
    ):
        yield running


@pytest.fixture
def profile(auth: RunningAuth, tmp_path: Path) -> Profile:
    (tmp_path / "ca.pem").write_bytes(auth.bundle_pem)
    address = f"127.0.0.1:{auth.ports()['client']}"
    made = Profile(
        auth=address, scheduler=address, trainer=address, inference=address, gateway=address,
        trust_bundle=tmp_path / "ca.pem", project="acme", folder=tmp_path,
    )  # fmt: skip
    write(tmp_path / "profile.toml", made)
    return made


@pytest.fixture
async def client(auth: RunningAuth, profile: Profile) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(profile, user="admin", password=auth.password) as signed_in:
        await signed_in.projects.create("acme")
        await signed_in.projects.create("beta")
        yield signed_in


@pytest.fixture
def run(auth: RunningAuth, client: AsyncClient, tmp_path: Path) -> Run:
    """Run a command as the administrator."""

    async def invoke(*argv: str) -> Any:
        given = {"LEPTON_PROFILE": str(tmp_path / "profile.toml"), "LEPTON_API_KEY": None, "LEPTON_PROJECT": None}
        (tmp_path / "password").write_text(auth.password)
        login = ["login", "--user", "admin", "--password-file", str(tmp_path / "password")]
        signed_in = await asyncio.to_thread(CliRunner().invoke, app, login, env=given)
        assert signed_in.exit_code == 0, signed_in.stderr
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), env=given)

    return invoke


async def is_sealed(auth: RunningAuth) -> bool:
    blocks, _ = await stored.read_blocks(auth.kv)
    return not blocks


async def test_records_are_queried_and_followed(client: AsyncClient) -> None:
    made = await client.audit.query(project="*", action="CreateProject", page_size=1).all()
    assert [record.resource for record in made] == ["projects/acme", "projects/beta"]
    own = await client.audit.query().all()
    assert {record.resource for record in own} == {"projects/acme"}
    async with aclosing(client.audit.tail(1, project="*")) as records:
        assert (await anext(records)).sequence >= made[-1].sequence
        await client.projects.create("gamma")
        while (record := await anext(records)).resource != "projects/gamma":
            pass
        assert record.outcome == AuditRecord.SUCCEEDED


async def test_a_blocking_client_can_do_the_same(auth: RunningAuth, client: AsyncClient, profile: Profile) -> None:
    def use() -> tuple[list[str], VerifyAuditResponse, list[str | None]]:
        with Client(profile, user="admin", password=auth.password) as blocking:
            found = [record.resource for record in blocking.audit.query(project="*", action="CreateProject")]
            tail = blocking.audit.tail(1)
            assert next(tail).resource == "projects/acme"
            tail.close()
            return found, blocking.audit.verify(), [part.WhichOneof("part") for part in blocking.audit.export()]

    found, verdict, parts = await asyncio.to_thread(use)
    assert found == ["projects/acme", "projects/beta"]
    assert not verdict.findings
    assert verdict.checked == verdict.sequence > 0
    assert (parts[0], parts[-1]) == ("key", "end")


async def test_a_tenant_s_client_sees_its_project_only(
    auth: RunningAuth, client: AsyncClient, profile: Profile
) -> None:
    await client.users.create("alice", PASSWORD)
    await client.role_bindings.create("alice", "admin", ["users/alice"], project="acme")
    async with AsyncClient(profile, user="alice", password=PASSWORD) as alice:
        resources = {record.resource for record in await alice.audit.query().all()}
        assert resources == {"projects/acme", "projects/acme/roleBindings/alice"}
        for refused in (alice.audit.query(project="*").all(), alice.audit.verify()):
            with pytest.raises(PermissionDenied):
                await refused


async def test_the_commands(run: Run, auth: RunningAuth, tmp_path: Path) -> None:
    shown = await run("audit", "query", "--organisation", "--action", "CreateProject")
    assert shown.exit_code == 0, shown.stderr
    assert [line.split()[-3:-1] for line in shown.stdout.splitlines()[1:]] == [
        ["projects/acme", "SUCCEEDED"],
        ["projects/beta", "SUCCEEDED"],
    ]
    tail = await run("audit", "tail", "-n", "1", "--project", "beta", "-o", "json")
    assert json.loads(tail.stdout)[0]["resource"] == "projects/beta"
    none = await run("audit", "query", "--since", "2020-01-01", "--until", "2020-01-02", "--outcome", "refused")
    assert len(none.stdout.splitlines()) == 1
    assert (await run("audit", "query", "--outcome", "odd")).exit_code == 2
    await until(lambda: is_sealed(auth))
    known = str(tmp_path / "head.json")
    whole = await run("audit", "verify", "--known", known)
    assert whole.exit_code == 0
    assert "the log is whole" in whole.stderr
    assert json.loads(Path(known).read_text())["logRoot"]  # noqa: ASYNC240
    file = str(tmp_path / "audit.jsonl")
    assert (await run("audit", "export", file)).exit_code == 0
    assert (await run("audit", "export", file)).exit_code == 2  # never written over
    checked = await run("audit", "verify", file)
    assert checked.exit_code == 0, checked.stdout
    stranger = await run("audit", "verify", file, "--key", "0" * 32, "-o", "json")
    assert stranger.exit_code == 1
    assert {each["kind"] for each in json.loads(stranger.stdout)["findings"]} == {"FORGED"}


async def test_tampering_is_shown_and_fails_the_command(run: Run, auth: RunningAuth, tmp_path: Path) -> None:
    assert (await run("whoami")).exit_code == 0
    await until(lambda: is_sealed(auth))
    body = await stored.read_body(auth.kv, 0)
    assert body is not None
    records = [record.replace(b"users/admin", b"users/adm1n") for record in body.records]
    await auth.kv.txn([], [Put(layout.audit_body(0), stored.pack(Body(records=records, leaves=body.leaves)))])
    shown = await run("audit", "verify")
    assert shown.exit_code == 1
    assert "EDITED" in shown.stdout
    assert "tampered" in shown.stderr


async def test_an_export_that_was_changed_is_found(client: AsyncClient, auth: RunningAuth, tmp_path: Path) -> None:
    await until(lambda: is_sealed(auth))
    file = tmp_path / "audit.jsonl"
    with file.open("w") as out:
        async for part in client.audit.export():
            exported.write_line(out, part)
    lines = file.read_text().splitlines()
    assert exported.read(lines).check(verifies) == []
    at = next(at for at, line in enumerate(lines) if line.startswith('{"batch"'))
    found = exported.read(lines[:at] + lines[at + 1 :]).check(verifies)
    assert found
    assert found[0].first == 1
