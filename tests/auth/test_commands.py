"""The commands as an operator runs them, against a real etcd."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chassis.credentials import signing_request
from lepton import channel
from lepton.auth.v1 import identity_service_pb2, identity_service_pb2_grpc
from tests.harness.etcd import EtcdCluster
from tests.harness.wait import until

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


def config(folder: Path, endpoints: list[str], issuer: str = "https://lepton.test") -> Path:
    path = folder / "auth.toml"
    path.write_text(
        f"""
issuer = "{issuer}"
audience = "lepton"
kek_file = "{folder}/secret/kek"
bootstrap_password_file = "{folder}/secret/admin.password"
[etcd]
endpoints = {json.dumps(endpoints)}
[identity]
state_dir = "{folder}/state"
trust_bundle = "{folder}/ca.pem"
[listen]
ports_file = "{folder}/ports.json"
"""
    )
    return path


async def auth(*arguments: str | Path) -> tuple[int, str, str]:
    program = [sys.executable, "-m", "services.auth", *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode().strip(), err.decode().strip()


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    program = [sys.executable, "-m", "services.auth", "--config", str(path)]
    with (path.parent / "auth.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*program, cwd=ROOT, stdout=log, stderr=log)
    try:
        await until((path.parent / "ports.json").exists, 30)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_init_join_and_serve(own_etcd: EtcdCluster, tmp_path: Path) -> None:
    path = config(tmp_path, own_etcd.endpoints)
    code, _, error = await auth("--config", path)
    assert code != 0
    assert "kek" in error

    assert await auth("init", "--config", path) == (0, "initialised", "")
    kept = {name: (tmp_path / name).read_text() for name in ("secret/kek", "secret/admin.password", "ca.pem")}
    assert await auth("init", "--config", path) == (0, "already initialised", "")
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    for name in ("secret/kek", "secret/admin.password"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600

    code, token, _ = await auth("join-token", "--config", path, "--spiffe", "service/scheduler", "--ttl", "60")
    assert code == 0
    assert token.startswith("lpj_")
    code, _, error = await auth("join-token", "--config", path, "--spiffe", "users/admin")
    assert code != 0
    assert "spiffe_path" in error

    async with serving(path) as process:
        ports = json.loads((tmp_path / "ports.json").read_text())
        bundle = (tmp_path / "ca.pem").read_bytes()
        async with channel.connect(f"127.0.0.1:{ports['client']}", trust_bundle_pem=bundle) as connection:
            stub = identity_service_pb2_grpc.IdentityServiceStub(connection)
            csr = signing_request(("localhost",))[1].decode()
            request = identity_service_pb2.IssueCertificateRequest(join_token=token, csr_pem=csr)
            assert (await stub.IssueCertificate(request)).spiffe_id == "spiffe://lepton.local/service/scheduler"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0


@pytest.mark.parametrize("issuer", ["", None])
async def test_auth_does_not_start_without_an_issuer(tmp_path: Path, issuer: str | None) -> None:
    path = config(tmp_path, ["127.0.0.1:1"], issuer or "")
    if issuer is None:
        path.write_text(path.read_text().replace('issuer = ""\n', ""))
    for arguments in (("--config", path), ("init", "--config", path)):
        code, _, error = await auth(*arguments)
        assert code != 0
        assert "issuer" in error
        assert "Traceback" not in error
