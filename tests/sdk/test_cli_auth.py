"""`lepton auth`, `roles`, `users disable` and `api-keys` against the real auth service."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest_asyncio
from typer.testing import CliRunner

from chassis.memory_kv import MemoryKV
from lepton.cli import exits
from lepton.cli.root import app
from lepton.client import AsyncClient
from lepton.profile import Profile, write
from tests.harness.auth import RunningAuth, running_auth

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
