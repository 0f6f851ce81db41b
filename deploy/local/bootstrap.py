"""What a fresh stack needs before it is of use: an authority, members admitted to the mesh, pools, a project."""

import asyncio
import contextlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from chassis.credentials import Credentials
from deploy.local.configs import NODES, join_token_file
from deploy.local.home import Home
from deploy.local.ports import Ports
from lepton import channel
from lepton.auth.v1.directory_service_pb2 import CreateProjectRequest
from lepton.auth.v1.directory_service_pb2_grpc import DirectoryServiceStub
from lepton.auth.v1.session_service_pb2 import PasswordCredential, SignInRequest
from lepton.auth.v1.session_service_pb2_grpc import SessionServiceStub
from lepton.errors import AlreadyExists
from lepton.profile import DEFAULT_PROJECT
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.scheduler_service_pb2 import CreatePoolRequest
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

_MARGIN: Final = timedelta(minutes=5)
_TIMEOUT_S: Final = 20.0
_POOLS: Final = {
    # `class` is a keyword of Python, so it cannot be an argument.
    "general": Pool(display_name="General work", **{"class": Pool.GENERAL}),  # type: ignore[arg-type]
    "performance": Pool(display_name="Fast machines", **{"class": Pool.PERFORMANCE}),  # type: ignore[arg-type]
}


async def initialise_auth(home: Home) -> None:
    """Makes the mesh's authority and the first administrator, once."""
    await _auth(home, "init")


async def admit(home: Home, members: dict[str, str]) -> None:
    """Makes a join token for every member (name -> SPIFFE path) whose certificate is not good any more."""
    needed = {name: path for name, path in members.items() if not _is_certified(_identity(home, name))}
    if not needed:
        return
    tokens = (await _auth(home, "join-token", "--spiffe", *needed.values())).split()
    for name, token in zip(needed, tokens, strict=True):
        file = Path(join_token_file(name, home))
        await asyncio.to_thread(file.write_text, token)
        await asyncio.to_thread(file.chmod, 0o600)


async def furnish(home: Home, ports: Ports) -> None:
    """Creates the pools that the stack's nodes join, and the project that commands mean until another is chosen."""
    bundle, password = await asyncio.to_thread(
        lambda: (home.trust_bundle.read_bytes(), home.admin_password.read_text().strip())
    )
    async with channel.connect(ports.address("auth-client"), trust_bundle_pem=bundle, server_name="auth") as auth:
        credential = PasswordCredential(user="users/admin", password=password)
        session = await SessionServiceStub(auth).SignIn(SignInRequest(password=credential), timeout=_TIMEOUT_S)
        default = CreateProjectRequest(project_id=DEFAULT_PROJECT)
        with contextlib.suppress(AlreadyExists):
            await DirectoryServiceStub(auth).CreateProject(
                default, timeout=_TIMEOUT_S, metadata=[("authorization", f"Bearer {session.access_token}")]
            )
    async with channel.connect(
        ports.address("scheduler-client"),
        token=session.access_token,
        trust_bundle_pem=bundle,
        server_name="scheduler",
    ) as scheduler:
        stub = SchedulerServiceStub(scheduler)
        for pool in sorted({pool for pool, _ in NODES.values()}):
            request = CreatePoolRequest(pool_id=pool, pool=_POOLS[pool])
            with contextlib.suppress(AlreadyExists):
                await stub.CreatePool(request, timeout=_TIMEOUT_S)


def _identity(home: Home, name: str) -> Path:
    """The folder in which a member keeps its certificate; the gateway's is kept by the inference service."""
    if name == "gateway":
        return home.state("inference") / "identity" / "gateway"
    return home.state(name) / "identity"


def _is_certified(folder: Path) -> bool:
    kept = Credentials.load(folder)
    return kept is not None and kept.not_after > datetime.now(UTC) + _MARGIN


async def _auth(home: Home, command: str, *arguments: str) -> str:
    argv = [sys.executable, "-m", "services.auth", command, "--config", str(home.config("auth")), *arguments]
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), 60.0)
    except BaseException:
        process.kill()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"`services.auth {command}` failed:\n{errors.decode(errors='replace')[-2000:]}")
    return output.decode()
