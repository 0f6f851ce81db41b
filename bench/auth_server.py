"""The real auth service for bench.auth: a process on one core, with thousands of live tokens."""

import asyncio
import json
import os
import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import uvloop

from chassis import logs
from chassis.app import settle_heap
from chassis.clock import SystemClock
from chassis.config import Limits
from chassis.etcd import EtcdKV
from chassis.kv import KV
from lepton.auth.v1 import access_service_pb2 as access
from lepton.auth.v1 import directory_service_pb2 as directory
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.internal.v1.credentials_pb2 import SigningKeyRecord
from services.auth import layout
from services.auth.config import Lifetimes
from services.auth.kek import Kek
from services.auth.keys import KeyRing
from services.auth.passwords import MEMORY_KIB
from services.auth.tokens import AccessTokens
from tests.harness.auth import RunningAuth, Stubs, running_auth
from tests.harness.etcd import EtcdCluster
from tests.harness.memory_kv import MemoryKV

PASSWORD: Final = "correct horse battery"
LONG: Final = Lifetimes(access_token_s=3600)  # a token lives as long as a run of the benchmark


async def serve(chosen: dict[str, Any]) -> None:
    """Serve until stdin closes; the first line on stdout says where and how, and where the tokens are."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kv = await _store(stack, folder, has_etcd=chosen["etcd"])
        auth = await stack.enter_async_context(
            running_auth(
                kv, folder, password_memory_kib=MEMORY_KIB, limits=Limits(rate_per_s=0, drain_s=0.1), lifetimes=LONG
            )
        )
        admin = await auth.admin()
        peer = await auth.join("service/trainer")
        hello = {
            "ports": auth.ports(),
            "bundle": auth.bundle_pem.decode(),
            "admin": (await auth.sign_in()).access_token,
            "api_key": await _people(admin),
            "peer_key": peer.key_pem.decode(),
            "peer_chain": peer.chain_pem.decode(),
            "tokens": str(folder / "tokens"),
        }
        (folder / "tokens").write_text("\n".join(await _tokens(auth, chosen["tokens"])))
        settle_heap()
        sys.stdout.write(json.dumps(hello) + "\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _store(stack: AsyncExitStack, folder: Path, *, has_etcd: bool) -> KV:
    if not has_etcd:
        return await stack.enter_async_context(MemoryKV())
    cluster = await stack.enter_async_context(EtcdCluster(folder / "etcd"))
    return await stack.enter_async_context(EtcdKV(cluster.endpoints))


async def _people(admin: Stubs) -> str:
    """A project, a user who may work in it, and the API key of a service account."""
    await admin.directory.CreateProject(directory.CreateProjectRequest(project_id="acme"))
    await admin.directory.CreateUser(directory.CreateUserRequest(user_id="alice", password=PASSWORD))
    account = await admin.directory.CreateServiceAccount(
        directory.CreateServiceAccountRequest(parent="projects/acme", service_account_id="robot")
    )
    binding = RoleBinding(role="roles/developer", members=["users/alice", account.name])
    await admin.access.CreateRoleBinding(
        access.CreateRoleBindingRequest(parent="projects/acme", role_binding_id="team", role_binding=binding)
    )
    key = await admin.directory.CreateApiKey(directory.CreateApiKeyRequest(parent=account.name, api_key_id="first"))
    return str(key.secret)


async def _tokens(auth: RunningAuth, count: int) -> list[str]:
    """As many live tokens of alice, each its own, signed by auth's key."""
    stored = await auth.kv.list(layout.SIGNING_KEYS)
    records = {each.key: SigningKeyRecord.FromString(each.value) for each in stored.entries}
    ring = KeyRing(Kek.load(auth.config.kek_file), SystemClock())
    issuer = AccessTokens(
        lambda: ring.signing_key(records),
        issuer=auth.config.issuer,
        audience=auth.config.audience,
        lifetime=timedelta(seconds=LONG.access_token_s),
        clock=SystemClock(),
    )
    return [issuer.issue("users/alice", f"{number:032x}", ["acme"]).token for number in range(count)]


if __name__ == "__main__":
    logs.configure("bench", level="error")
    settings = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {settings["core"]})
    uvloop.run(serve(settings))
