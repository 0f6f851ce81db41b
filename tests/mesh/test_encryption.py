"""Encryption on a whole stack: what a project stores is readable with its keys only, and never again without them."""

import asyncio
import base64
import json
import os
import secrets
from pathlib import Path
from typing import Any

import psutil
import pytest

from chassis.etcd import EtcdKV
from chassis.kv import list_all
from lepton.artifacts import ArtifactStore
from lepton.client import AsyncClient
from lepton.errors import FailedPrecondition, LeptonError
from lepton.script import Script
from lepton.trainer.v1.job_pb2 import Job, Workers
from services.auth.config import load
from tests.harness.sealed_store import project_keys_of, sealed_store
from tests.harness.wait import until
from tests.mesh.conftest import PROJECT, Stack, digits_job

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(420)]

SNOOP = """
import json, os, pathlib, sys
from lepton import train
url = os.environ["LEPTON_ARTIFACTS"]
own = pathlib.Path(url.partition("#key_file=")[2])
seen = {"own": own.read_text(), "mode": oct(own.stat().st_mode & 0o777), "others": []}
for folder in (own.parents[1], *own.parents[2].glob("../*/keys")):
    try:
        for other in folder.resolve().glob("*/*.keys"):
            if other != own:
                try:
                    seen["others"].append([str(other), other.read_text()])
                except OSError as error:
                    seen["others"].append([str(other), type(error).__name__])
    except OSError:
        pass
print("SNOOP", json.dumps(seen), flush=True)
train.report({"loss": 1.0}, step=1)
"""


def stored(stack: Stack, project: str = PROJECT) -> list[Path]:
    """Every file of a project in the artifact store."""
    return [each for each in (stack.home.artifacts / project).rglob("*") if each.is_file()]


async def test_what_is_trained_is_sealed_everywhere_and_no_key_shows(stack: Stack, client: AsyncClient) -> None:
    canary = f"canary-{secrets.token_hex(24)}".encode()
    artifact = await client.artifacts.upload(canary * 1000)
    assert await client.artifacts.download(artifact.digest) == canary * 1000
    job = await client.jobs.create("sealed", await digits_job(client, epochs=400))
    name = job.name

    async def is_running() -> bool:
        return (await client.jobs.get(name)).state == Job.RUNNING and bool(
            [each async for each in client.jobs.checkpoints(name)]
        )

    await until(is_running, 120)
    keys = await project_keys_of(stack.home, PROJECT)
    shown = await asyncio.to_thread(_shown_by_processes, str(stack.home.root))
    await client.jobs.cancel(name)
    assert sum(b"services.agent" in each for each in shown) >= 3, "the control: they were looked at"
    forms = [form for key in keys.values() for form in _forms(key)]
    assert not [each[:80] for each in shown if any(form in each for form in forms)]
    files = stored(stack)
    assert len(files) > 5
    assert all(each.name.endswith(".sealed") for each in files)
    blob = b"".join(each.read_bytes() for each in files)
    assert canary not in blob
    assert not [form for form in forms if form in blob]
    opened = await sealed_store(stack.home, PROJECT)
    assert opened.read(PROJECT, artifact.digest) == canary * 1000  # the control: with the key it is there
    config = load(stack.home.config("auth"))
    async with EtcdKV(config.etcd.endpoints, config.etcd.tls) as kv:
        dump = b"".join(each.value for each in (await list_all(kv, "/")).entries)
    logs = b"".join(each.read_bytes() for each in (stack.home.root / "logs").iterdir())
    assert not [form for form in forms if form in dump + logs]
    assert next(iter(keys)).encode() in dump  # the control: its id is


async def test_a_rank_has_the_keys_of_its_own_project_and_of_no_other(
    stack: Stack, client: AsyncClient, tmp_path: Path
) -> None:
    await client.projects.create("rival")
    (tmp_path / "snoop.py").write_text(SNOOP)
    await client.artifacts.upload(b"mine")  # so that there is a key
    jobs = {project: await _submitted(client, project, tmp_path / "snoop.py") for project in (PROJECT, "rival")}
    seen = {project: await _snooped(client, job) for project, job in jobs.items()}
    for project, other in ((PROJECT, "rival"), ("rival", PROJECT)):
        (own,) = (await project_keys_of(stack.home, project)).keys()
        assert seen[project]["mode"] == "0o400"
        assert own in seen[project]["own"]
        theirs = [what for path, what in seen[project]["others"] if f"/{other}/" in path]
        assert not [what for what in theirs if what != "PermissionError"], "Landlock, or another user"


async def _submitted(client: AsyncClient, project: str, path: Path) -> str:
    job = Job(workers=Workers(count=1))
    return (await client.jobs.submit_script("snoop", Script(path=path), job, project=project)).name


async def _snooped(client: AsyncClient, job: str) -> dict[str, Any]:
    ended = await client.jobs.wait(job, timeout_s=120)
    lines = [line.text async for line in client.jobs.logs(job)]
    assert ended.state == Job.SUCCEEDED, (ended.message, lines)
    (said,) = [line.removeprefix("SNOOP ") for line in lines if line.startswith("SNOOP ")]
    found: dict[str, Any] = json.loads(said)
    return found


async def test_after_shredding_nothing_of_the_project_opens(stack: Stack, client: AsyncClient) -> None:
    await client.projects.create("doomed")
    kept = await client.artifacts.upload(b"kept" * 100)
    artifact = await client.artifacts.upload(b"doomed" * 1000, project="doomed")
    keys = await project_keys_of(stack.home, "doomed")
    with pytest.raises(LeptonError):
        await client.encryption.shred("doomed", confirmation="doomed")
    assert await client.artifacts.download(artifact.digest, project="doomed") == b"doomed" * 1000
    done = await client.encryption.shred("doomed", confirmation="projects/doomed")
    assert set(keys) <= set(done.destroyed_key_ids)

    async def is_closed() -> bool:
        try:
            await client.artifacts.download(artifact.digest, project="doomed")
        except FailedPrecondition as error:
            return error.reason == "PROJECT_SHREDDED"
        return False

    await until(is_closed, 60)  # the trainer holds keys for half a minute
    with pytest.raises(FailedPrecondition):
        await client.artifacts.upload(b"more", project="doomed")
    with pytest.raises(FailedPrecondition):
        await project_keys_of(stack.home, "doomed")  # not even who holds all secrets of auth
    with pytest.raises(FailedPrecondition):
        ArtifactStore(stack.home.artifacts.as_uri()).read("doomed", artifact.digest)
    assert stored(stack, "doomed")  # the bytes are still there, and worth nothing
    assert await client.artifacts.download(kept.digest) == b"kept" * 100


def _forms(key: bytes) -> list[bytes]:
    return [key, key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key)]


def _shown_by_processes(home: str) -> list[bytes]:
    """The arguments and the environment of every process of the stack."""
    found = []
    for process in psutil.process_iter():
        try:
            folder = Path(f"/proc/{process.pid}")
            shown = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
        except OSError:
            continue
        if home.encode() in shown and process.pid != os.getpid():
            found.append(shown)
    return found
