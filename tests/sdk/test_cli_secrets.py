"""`lepton secrets` against the real auth service, and `--secret` of the commands that submit."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner

from lepton.cli.process_options import ProcessOptions
from lepton.cli.root import app
from lepton.cli.secret_options import secret_mounts
from lepton.client.secrets import complete
from lepton.profile import Profile, write
from lepton.trainer.v1.job_pb2 import SecretMount
from tests.harness.auth import running_auth
from tests.harness.memory_kv import MemoryKV

Run = Callable[..., Coroutine[Any, Any, Any]]
VALUE = "canary of the command line"


@pytest_asyncio.fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """Run a command, signed in as the administrator; its input is what a shell would pipe into it."""
    async with MemoryKV() as kv, running_auth(kv, tmp_path) as auth:
        here = f"127.0.0.1:{auth.ports()['client']}"
        nowhere = dict.fromkeys(("scheduler", "trainer", "inference", "gateway"), "127.0.0.1:1")
        profile = Profile(auth=here, **nowhere, trust_bundle=tmp_path / "ca.pem", project="acme", folder=tmp_path)
        write(tmp_path / "profile.toml", profile)
        cleared = dict.fromkeys(("LEPTON_HOME", "LEPTON_API_KEY", "LEPTON_PROJECT", "LEPTON_TRACE"))
        environment = {**cleared, "LEPTON_PROFILE": str(tmp_path / "profile.toml")}

        async def invoke(*argv: str, stdin: str = "") -> Any:
            done = await asyncio.to_thread(CliRunner().invoke, app, list(argv), input=stdin, env=environment)
            assert VALUE not in done.stdout + done.stderr
            return done

        assert (await invoke("login", "--user", "admin", "--password-file", "-", stdin=auth.password)).exit_code == 0
        assert (await invoke("projects", "create", "acme")).exit_code == 0
        yield invoke


async def test_a_secret_is_made_described_turned_off_and_ended(run: Run, tmp_path: Path) -> None:
    made = await run("secrets", "create", "db", stdin=VALUE + "\n")
    assert made.exit_code == 0, made.stderr
    (tmp_path / "value").write_bytes(b"\x00\xff")
    assert (await run("secrets", "add-version", "db", "--file", str(tmp_path / "value"))).exit_code == 0
    listed = json.loads((await run("secrets", "list", "-o", "json")).stdout)
    assert [(each["name"], each["current_version"]) for each in listed] == [("projects/acme/secrets/db", 2)]
    described = (await run("secrets", "describe", "db")).stdout
    assert [line.split()[:2] for line in described.splitlines()[-2:]] == [["2", "ENABLED"], ["1", "ENABLED"]]
    assert (await run("secrets", "disable", "db", "--version", "2")).exit_code == 0
    assert json.loads((await run("secrets", "describe", "db", "-o", "json")).stdout)["current_version"] == 1
    assert (await run("secrets", "enable", "db", "--version", "2")).exit_code == 0
    assert (await run("secrets", "destroy", "db", "1")).exit_code == 0
    assert "DESTROYED" in (await run("secrets", "describe", "db")).stdout
    assert (await run("secrets", "delete", "db")).exit_code == 0
    assert (await run("secrets", "describe", "db")).exit_code != 0


async def test_a_value_that_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    assert "is empty" in (await run("secrets", "create", "db", stdin="\n")).stderr
    assert "cannot read" in (await run("secrets", "create", "db", "--file", str(tmp_path / "no"))).stderr
    assert "65536 bytes" in (await run("secrets", "create", "db", stdin="x" * 70_000)).stderr
    refused = await run("secrets", "create", "db", "hunter2")  # a value is no argument
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("wish", "mount"),
    [
        ("db=env:DB", SecretMount(secret="db", env="DB")),
        ("db@3=file:keys/db.pem", SecretMount(secret="db", version=3, file="keys/db.pem")),
        ("projects/acme/secrets/db=env:DB", SecretMount(secret="projects/acme/secrets/db", env="DB")),
    ],
)
def test_a_wish_is_read(wish: str, mount: SecretMount) -> None:
    (fields,) = secret_mounts([wish])
    assert SecretMount(**fields) == mount


@pytest.mark.parametrize("wish", ["db", "db=DB", f"db={VALUE}", "db@0=env:A", "db@x=env:A", "=env:A", "db=env:"])
def test_a_wish_that_is_none_is_refused_and_not_repeated(wish: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        list(secret_mounts([wish]))
    assert VALUE not in str(refused.value)


def test_commands_take_secrets_and_ids_are_of_the_project() -> None:
    workload = ProcessOptions(secret=["db=env:DB"]).workload(["true"])
    mounts = workload.groups[0].program.process.secrets
    complete(mounts, "projects/acme")
    complete(mounts, "projects/other")  # what is whole stays as it is
    assert [(each.secret, each.env) for each in mounts] == [("projects/acme/secrets/db", "DB")]
