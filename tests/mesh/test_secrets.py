"""Secrets on a whole stack: from a person's hand to a rank, and in nothing that the stack writes or says."""

import asyncio
import base64
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from chassis.etcd import EtcdKV
from chassis.kv import list_all
from lepton import channel
from lepton.auth.v1 import secret_service_pb2, secret_service_pb2_grpc
from lepton.client import AsyncClient
from lepton.errors import LeptonError, PermissionDenied
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.script import Script
from lepton.trainer.v1.job_pb2 import Job, SecretMount, Workers
from services.auth.config import load
from tests.mesh.conftest import PROJECT, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(420)]

TRAIN = """
import base64, hashlib, os, sys
from lepton import train
token, key = os.environ["TOKEN"], open(os.environ["LEPTON_SECRETS"] + "/key.pem").read()
print("given", hashlib.sha256((token + key).encode()).hexdigest(), "seen-by-everybody-{mark}")
print(token, base64.b64encode(token.encode()).decode(), token.encode().hex())
print(key, file=sys.stderr)
train.report({{"loss": 1.0}}, step=1)
raise RuntimeError("cannot log in with " + token)
"""


class Canaries:
    """What must be found nowhere, by where it was put, and what must be found: the control."""

    def __init__(self) -> None:
        self.token = f"canary-token-{secrets.token_hex(16)}"
        self.key = f"-----BEGIN KEY-----\ncanary-key-{secrets.token_hex(24)}\n-----END KEY-----"
        self.password = f"canary-password-{secrets.token_hex(16)}"
        self.metadata = f"canary-metadata-{secrets.token_hex(16)}"
        self.message = f"canary-message-{secrets.token_hex(16)}"
        self.mark = secrets.token_hex(8)

    def needles(self) -> dict[str, bytes]:
        """How they may appear."""
        key_line = self.key.splitlines()[1]
        return {
            "token": self.token.encode(),
            "token in base64": base64.b64encode(self.token.encode()).rstrip(b"="),
            "token in hex": self.token.encode().hex().encode(),
            "key": key_line.encode(),
            "password": self.password.encode(),
            "metadata": self.metadata.encode(),
            "message": self.message.encode(),
        }


async def lepton(stack: Stack, *arguments: str, given: bytes = b"") -> tuple[int, str]:
    """The command line, as a person uses it; its exit code and all that it said."""
    own = stack.home.root / "home-of-alice"
    own.mkdir(exist_ok=True)
    environ = {
        **os.environ,
        "LEPTON_PROFILE": str(stack.home.profile_file),
        "LEPTON_PROJECT": PROJECT,
        "HOME": str(own),
        "XDG_CONFIG_HOME": str(own),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lepton.cli", *arguments, env=environ, cwd=own,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate(given)
    return process.returncode or 0, said.decode(errors="replace")


def written(home: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below the stack's directory: logs, spans, journals, artifacts, state, etcd's own files."""
    for path in home.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(home)), path.read_bytes()
        except OSError:
            continue  # gone meanwhile


async def dumped(stack: Stack) -> list[tuple[str, bytes]]:
    """All keys of etcd with their values."""
    config = load(stack.home.config("auth"))
    async with EtcdKV(config.etcd.endpoints, config.etcd.tls) as kv:
        return [(f"etcd {each.key}", each.key.encode() + each.value) for each in (await list_all(kv, "")).entries]


def shown() -> list[tuple[str, bytes]]:
    """The arguments of every process of the machine."""
    return [
        (f"argv of {each.info['pid']}", " ".join(each.info["cmdline"] or ()).encode())
        for each in psutil.process_iter(["pid", "cmdline"])
    ]


async def told(client: AsyncClient, *jobs: Job) -> list[tuple[str, bytes]]:
    """What clients can ask for."""
    said = [("audit", str(await client.audit.query(project="*").all()).encode())]
    said += [("secrets", str(await client.secrets.list().all()).encode())]
    for job in jobs:
        found = await client.jobs.get(job.name)
        lines = [line.text async for line in client.jobs.logs(job.name)]
        said += [(f"{job.name}", str(found).encode()), (f"output of {job.name}", "\n".join(lines).encode())]
        said += [(f"{found.workload}", str(await client.workloads.get(found.workload)).encode())]
    return said


def found(places: list[tuple[str, bytes]], needle: bytes) -> list[str]:
    return [place for place, content in places if needle in content]


async def misuse(stack: Stack, canaries: Canaries) -> None:
    """Calls that fail, with canaries where a log or an error text might repeat them."""
    code, _ = await lepton(stack, "login", "--user", "nobody", "--password-file", "-", given=canaries.password.encode())
    assert code != 0
    address, bundle = stack.profile.auth, stack.home.trust_bundle.read_bytes()
    async with channel.connect(address, token=canaries.metadata, trust_bundle_pem=bundle, server_name="auth") as calls:
        stub: Any = secret_service_pb2_grpc.SecretServiceStub(calls)
        for secret_id in ("fine", "NOT AN ID"):
            value = canaries.message.encode() * (2000 if secret_id == "fine" else 1)
            request = secret_service_pb2.CreateSecretRequest(
                parent=f"projects/{PROJECT}", secret_id=secret_id, value=value
            )
            metadata = grpc.aio.Metadata(("x-canary", canaries.metadata))
            with pytest.raises(LeptonError) as refused:
                await stub.CreateSecret(request, metadata=metadata)
            assert "canary" not in str(refused.value)


async def test_no_secret_is_in_anything_that_the_stack_writes_or_says(
    stack: Stack, client: AsyncClient, tmp_path: Path
) -> None:
    canaries = Canaries()
    password = stack.home.admin_password.read_bytes()
    assert await lepton(stack, "login", "--user", "admin", "--password-file", "-", given=password)
    code, said = await lepton(stack, "secrets", "create", "token", given=canaries.token.encode() + b"\n")
    assert code == 0, said
    pem = tmp_path / "key.pem"
    pem.write_text(canaries.key)
    code, said = await lepton(stack, "secrets", "create", "key", "--file", str(pem))
    assert code == 0, said
    await misuse(stack, canaries)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(TRAIN.format(mark=canaries.mark))
    code, said = await lepton(
        stack, "run", "--trace", "--name", f"job-{canaries.mark}", "--max-restarts", "0", "--workers", "2",
        "--secret", "token=env:TOKEN", "--secret", "key=file:key.pem", str(tmp_path / "code" / "train.py"),
    )  # fmt: skip
    job = await client.jobs.get(f"job-{canaries.mark}")
    assert job.state == Job.FAILED, said
    assert "cannot log in with ***" in job.error.message
    places = [
        *written(stack.home.root),
        *(await dumped(stack)),
        *shown(),
        *(await told(client, job)),
        ("CLI", said.encode()),
    ]
    for what, needle in canaries.needles().items():
        assert found(places, needle) == [], what
    # The control: what is no secret and went the same ways is found in each of them.
    mark = canaries.mark.encode()
    seen = found(places, mark)
    for place in ("etcd /lepton/", "etcd/member/", "logs/", "journals/", "traces.sqlite", "output of ", "audit", "CLI"):
        assert any(each.startswith(place) for each in seen), (place, seen)
    described = await client.secrets.get("token")
    assert described.versions[0].HasField("last_use_time")
    records = await client.audit.query(project="*", action="secrets.use").all()
    assert {each.resource for each in records} == {
        f"projects/{PROJECT}/secrets/{name}/versions/1" for name in ("token", "key")
    }


async def test_a_job_that_starts_again_gets_the_newest_and_one_that_runs_keeps_its_own(
    stack: Stack, client: AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(
        "import os, sys; from lepton import train\n"
        "print('has', len(os.environ['TURN']), len(os.environ['FIRST']), flush=True)\n"
        "sys.exit(1 if len(os.environ['TURN']) == 5 else 0)\n"
    )
    await client.secrets.create("turning", b"1" * 5)
    mounts = [
        SecretMount(secret="turning", env="TURN"),
        SecretMount(secret="turning", version=1, env="FIRST"),
    ]
    job = Job(workers=Workers(count=1), max_restarts=3, secrets=mounts)
    submitted = await client.jobs.submit_script("turning", Script(path=tmp_path / "train.py"), job)

    async def printed() -> list[str]:
        return [line.text async for line in client.jobs.logs(submitted.name)]

    async for _ in client.jobs.logs(submitted.name, follow=True):
        await client.secrets.add_version("turning", b"2" * 9)
        break
    ended = await client.jobs.wait(submitted.name, timeout_s=120)
    assert ended.state == Job.SUCCEEDED, ended.error
    lines = await printed()
    assert lines[0] == "has 5 5"
    assert lines[-1] == "has 9 5"


async def test_who_may_not_use_a_secret_cannot_submit_a_job_with_it(stack: Stack, client: AsyncClient) -> None:
    await client.secrets.create("forbidden", b"value")
    role = f"submitter-{secrets.token_hex(4)}"
    await client.access.create_role(
        role, ["projects.get", "jobs.create", "jobs.get", "workloads.create", "artifacts.create"]
    )
    await client.users.create("sub", "correct horse battery")
    await client.role_bindings.create("sub-1", role, ["users/sub"])
    async with AsyncClient.open(stack.profile, project=PROJECT, user="sub", password="correct horse battery") as sub:
        workload = Workload(kind=Workload.BATCH)
        group = workload.groups.add(name="task", min_count=1)
        group.resources.cpu_milli = 100
        group.program.process.argv.append("true")
        group.program.process.secrets.add(secret="forbidden", env="X")
        with pytest.raises(PermissionDenied):
            await sub.workloads.create("w", workload)
        del group.program.process.secrets[:]
        assert (await sub.workloads.create("w", workload)).name  # the control
