"""`lepton auth`, `roles`, `users disable` and `api-keys` against the real auth service."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from typer.testing import CliRunner

from chassis.credentials import signing_request
from lepton.auth.v1 import identity_service_pb2
from lepton.cli import exits
from lepton.cli.root import app
from lepton.client import AsyncClient
from lepton.profile import Profile, write
from tests.harness.auth import RunningAuth, running_auth
from tests.harness.memory_kv import MemoryKV

pytestmark = pytest.mark.integration

Run = Callable[..., Coroutine[Any, Any, Any]]
PASSWORD = "correct horse battery"


@pytest_asyncio.fixture
async def auth(tmp_path: Path) -> AsyncIterator[RunningAuth]:
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as running:
        here = f"127.0.0.1:{running.ports()['client']}"
        nowhere = dict.fromkeys(("scheduler", "trainer", "inference", "gateway"), "127.0.0.1:1")
        profile = Profile(auth=here, **nowhere, trust_bundle=tmp_path / "ca.pem", project="acme", folder=tmp_path)
        write(tmp_path / "profile.toml", profile)
        yield running


@pytest_asyncio.fixture
async def run(auth: RunningAuth, tmp_path: Path) -> Run:
    """Run a command, signed in as the administrator."""
    cleared = dict.fromkeys(("LEPTON_HOME", "LEPTON_API_KEY", "LEPTON_PROJECT", "LEPTON_TRACE"))
    given = {**cleared, "LEPTON_PROFILE": str(tmp_path / "profile.toml")}

    async def invoke(*argv: str, stdin: str = "", **environment: str) -> Any:
        base = {**given, **environment}
        return await asyncio.to_thread(CliRunner().invoke, app, list(argv), input=stdin, env=base)

    await signed_in(invoke, "admin", auth.password)
    assert (await invoke("projects", "create", "acme")).exit_code == 0
    return invoke


async def signed_in(run: Run, user: str, password: str) -> None:
    done = await run("login", "--user", user, "--password-file", "-", stdin=f"{password}\n")
    assert done.exit_code == 0, done.stderr


async def test_asking_what_is_permitted_and_why(run: Run, auth: RunningAuth) -> None:
    assert (await run("users", "create", "alice", "--password-file", "-", stdin=PASSWORD)).exit_code == 0
    assert (await run("users", "grant", "viewer", "users/alice")).exit_code == 0
    told = await run("auth", "why", "jobs.create", "--principal", "users/alice")
    assert told.exit_code == 0, told.stderr
    assert told.stdout.splitlines()[0].startswith("jobs.create on projects/acme: not permitted (policy revision ")
    assert "  not given by roles/viewer on projects/acme (projects/acme/roleBindings/viewer-alice)" in told.stdout
    assert "  missing: one of the roles roles/admin, roles/developer on * or projects/acme" in told.stdout
    assert (
        "given by roles/admin on the organisation (roleBindings/bootstrap-admin), which has *"
        in (await run("auth", "why", "pools.create", "--organisation")).stdout
    )
    assert "spelled right?" in (await run("auth", "why", "jobs.fly")).stdout
    await signed_in(run, "alice", PASSWORD)
    yes, no = await run("auth", "can-i", "jobs.get"), await run("auth", "can-i", "jobs.create")
    assert (yes.stdout, yes.exit_code, no.stdout, no.exit_code) == ("yes\n", 0, "no\n", exits.FAILED)
    document = json.loads((await run("auth", "why", "jobs.get", "projects/acme/jobs/one", "-o", "json")).stdout)
    assert document["allowed"] is True
    assert document["grants"][0]["pattern"] == "jobs.get"
    assert (await run("auth", "why", "jobs.get", "--principal", "users/admin")).exit_code == 17
    assert "as if it did not exist" in (await run("auth", "why", "jobs.get", "projects/other")).stdout


async def test_roles_of_ones_own(run: Run) -> None:
    made = await run("roles", "create", "submitter", "jobs.create", "jobs.get")
    assert made.exit_code == 0, made.stderr
    assert (await run("roles", "create", "odd", "jobs.fly")).exit_code == 13
    assert (await run("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)).exit_code == 0
    on = ("--on", "projects/acme/jobs/one", "--name", "bob")
    assert (await run("users", "grant", "submitter", "users/bob", *on)).exit_code == 0
    assert (await run("roles", "delete", "submitter")).exit_code == 19
    assert (await run("roles", "update", "submitter", "jobs.get")).exit_code == 0
    shown = json.loads((await run("roles", "list", "-o", "json")).stdout)
    assert [each["name"] for each in shown][-1] == "roles/submitter"
    assert shown[-1]["permissions"] == ["jobs.get"]
    assert "jobs.create" in (await run("roles", "permissions")).stdout.splitlines()
    await signed_in(run, "bob", PASSWORD)
    assert (await run("auth", "can-i", "jobs.get", "projects/acme/jobs/one")).stdout == "yes\n"
    assert (await run("auth", "can-i", "jobs.get", "projects/acme/jobs/two")).stdout == "no\n"


async def test_ending_access(run: Run, auth: RunningAuth) -> None:
    assert (await run("users", "create", "alice", "--password-file", "-", stdin=PASSWORD)).exit_code == 0
    assert "True" in (await run("users", "disable", "alice")).stdout
    assert (await run("login", "--user", "alice", "--password-file", "-", stdin=PASSWORD)).exit_code == 26
    assert (await run("users", "enable", "alice")).exit_code == 0
    assert (await run("auth", "revoke", "users/alice")).stderr.startswith("revoked users/alice; policy revision ")
    assert (await run("auth", "revoke")).exit_code == exits.USAGE
    assert (await run("auth", "revoke", "users/nobody")).exit_code == 15
    rotated = await run("auth", "rotate-key", "--distrust-former")
    assert rotated.exit_code == 0, rotated.stderr
    keys = await run("auth", "keys", "-o", "name")  # signed in still: the session was refreshed
    assert keys.exit_code == 0, keys.stderr
    assert len(keys.stdout.splitlines()) == 1
    assert (await run("auth", "rotate-key")).exit_code == 19


async def test_keys_that_are_good_for_little(run: Run, auth: RunningAuth) -> None:
    assert (await run("service-accounts", "create", "robot")).exit_code == 0
    assert (await run("users", "grant", "admin", "projects/acme/serviceAccounts/robot")).exit_code == 0
    limits = ("--permission", "jobs.*", "--permission", "models.get", "--on", "projects/acme")
    made = await run("api-keys", "create", "robot", "ci", *limits)
    assert made.exit_code == 0, made.stderr
    secret = made.stdout.strip()
    listed = await run("api-keys", "list", "--prefix", secret[:12])
    assert "jobs.*, models.get" in listed.stdout
    assert secret not in listed.stdout
    assert (await run("auth", "can-i", "jobs.create", LEPTON_API_KEY=secret)).stdout == "yes\n"
    assert (await run("auth", "can-i", "models.create", LEPTON_API_KEY=secret)).stdout == "no\n"
    told = await run("auth", "why", "models.create", LEPTON_API_KEY=secret)
    assert "taken away: the token is good only for jobs.*, models.get" in told.stdout


async def test_the_client_asks_for_a_revision(auth: RunningAuth, tmp_path: Path) -> None:
    profile = Profile.load(tmp_path / "profile.toml", {})
    async with AsyncClient(profile, user="admin", password=auth.password) as client:
        await client.projects.create("acme")
        made = await client.role_bindings.create("one", "viewer", ["users/admin"], resource="projects/acme/jobs/one")
        written = int(made.etag.strip('"'))
        assert await client.access.can("jobs.get", "projects/acme", at_least_revision=written)
        assert (await client.access.explain("jobs.get", at_least_revision=written)).policy_revision >= written
        assert (await client.access.role("viewer")).built_in


async def test_a_grant_on_conditions_is_previewed_made_asked_about_and_taken_back(run: Run) -> None:
    assert (await run("users", "create", "alice", "--password-file", "-", stdin=PASSWORD)).exit_code == 0
    wanted = ("users", "grant", "developer", "users/alice", "--pool", "a", "--max-priority", "5")
    hours = ("--hours", "Mon-Fri 08:00-18:00 Europe/Berlin")
    told = await run(*wanted, *hours, "--dry-run")
    assert told.exit_code == 0, told.stderr
    only = "in pools/a; priority at most 5; Mon-Fri 08:00-18:00 Europe/Berlin"
    assert told.stdout.startswith(f"users/alice gains on projects/acme ({only}): artifacts.create, ")
    assert "jobs.create" in told.stdout
    assert "nothing was changed" in told.stderr
    assert "developer-alice" not in (await run("users", "grants")).stdout
    made = await run(*wanted, *hours)
    assert made.exit_code == 0, made.stderr
    assert (
        "a; priority at most 5; Mon,Tue,Wed,Thu,Fri 08:00-18:00 Europe/Berlin" in (await run("users", "grants")).stdout
    )

    why = ("auth", "why", "jobs.create", "--principal", "users/alice", "--pool", "a")
    given = (await run(*why, "--at", "2026-06-08T09:30+02:00")).stdout
    assert (
        f"given by roles/developer on projects/acme (projects/acme/roleBindings/developer-alice), only {only}" in given
    )
    sunday = (await run(*why, "--at", "2026-06-07T09:30+02:00")).stdout
    assert "not permitted" in sunday
    assert "withheld by roles/developer on projects/acme" in sunday
    assert "it is not within Mon-Fri 08:00-18:00 Europe/Berlin" in sunday
    assert "priority 6 is above 5" in (await run(*why, "--priority", "6")).stdout

    binding = "projects/acme/roleBindings/developer-alice"
    lost = await run("users", "ungrant", binding, "--dry-run")
    assert lost.stdout.startswith(f"users/alice loses on projects/acme ({only}): ")
    assert json.loads((await run("users", "ungrant", binding, "--dry-run", "-o", "json")).stdout)["total"] == 1
    assert (await run("users", "ungrant", binding)).exit_code == 0
    assert "developer-alice" not in (await run("users", "grants")).stdout


async def test_hours_that_make_no_sense_say_how_to_write_them(run: Run) -> None:
    for hours in ("8-18", "Mo-Fr 08:00-18:00 UTC", "08:00-18:00"):
        refused = await run("users", "grant", "viewer", "users/admin", "--hours", hours)
        assert refused.exit_code == exits.USAGE
        assert "Mon-Fri" in refused.stderr
    unknown = await run("users", "grant", "viewer", "users/admin", "--hours", "08:00-18:00 Mars/Olympus")
    assert unknown.exit_code == 13
    assert "Europe/Berlin" in unknown.stderr


async def test_who_would_gain_by_another_role(run: Run) -> None:
    assert (await run("roles", "create", "submitter", "jobs.create")).exit_code == 0
    assert (await run("users", "create", "bob", "--password-file", "-", stdin=PASSWORD)).exit_code == 0
    assert (await run("users", "grant", "submitter", "users/bob")).exit_code == 0
    told = await run("roles", "update", "submitter", "jobs.get", "--dry-run")
    assert told.stdout.splitlines() == [
        "users/bob gains on projects/acme: jobs.get",
        "users/bob loses on projects/acme: jobs.create",
    ]
    nobody = await run("roles", "update", "submitter", "jobs.create", "--dry-run")
    assert nobody.stdout == "nobody gains or loses anything\n"


async def test_limits_of_principals(run: Run) -> None:
    made = await run("limits", "create", "students", "users/admin", "--max-unfinished", "3", "--max-devices", "4")
    assert made.exit_code == 0, made.stderr
    (shown,) = json.loads((await run("limits", "list", "-o", "json")).stdout)
    assert (shown["max_unfinished"], shown["max_device_milli"]) == (3, "4000")
    assert (await run("limits", "update", "students", "users/admin", "--requests-per-s", "50")).exit_code == 0
    assert "50" in (await run("limits", "list")).stdout
    assert (await run("limits", "create", "nothing", "users/admin")).exit_code == 13
    assert (await run("limits", "create", "who", "users/nobody", "--max-unfinished", "1")).exit_code == 15
    assert (await run("limits", "delete", "students")).exit_code == 0
    assert json.loads((await run("limits", "list", "-o", "json")).stdout) == []


async def test_nodes_are_admitted_and_revoked_in_one_command_each(run: Run, auth: RunningAuth) -> None:
    token = (await run("nodes", "join-token", "n7")).stdout.strip()
    key_pem, csr_pem = signing_request(("localhost",))
    request = identity_service_pb2.IssueCertificateRequest(join_token=token, csr_pem=csr_pem.decode())
    issued = await (await auth.client()).identity.IssueCertificate(request)
    assert issued.spiffe_id == "spiffe://lepton.local/agent/n7"
    assert key_pem
    done = await run("nodes", "revoke", "n7")
    assert done.stderr.startswith("revoked the certificate of node n7; policy revision "), done.stderr
    assert (await run("nodes", "revoke", "No Node")).exit_code != 0


async def test_the_root_authority_is_replaced(run: Run, auth: RunningAuth) -> None:
    first = (await run("auth", "authorities")).stdout.splitlines()
    assert [line.split()[1] for line in first[1:]] == ["SIGNING"]
    refused = await run("auth", "rotate-authority", "--overlap-h", "0.5")
    assert "must be at least 3600 s" in refused.stderr
    rotated = (await run("auth", "rotate-authority", "--overlap-h", "24")).stdout.splitlines()
    assert [line.split()[1] for line in rotated[1:]] == ["SIGNING", "PUBLISHED"]
    again = await run("auth", "rotate-authority")
    assert "AUTHORITY_ROTATING" in again.stderr or "being replaced until" in again.stderr
    named = (await run("auth", "authorities", "-o", "name")).stdout.split()
    assert [len(each) for each in named] == [64, 64]
