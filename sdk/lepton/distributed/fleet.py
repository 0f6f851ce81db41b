"""On what a training runs: the Lepton that is configured, else a stack of this machine, and which devices it has."""

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lepton.client import AsyncClient
from lepton.errors import AlreadyExists, FailedPrecondition
from lepton.profile import DEFAULT_PROJECT, FILE, Profile, home
from lepton.scheduler.v1.node_pb2 import Node

VIRTUAL: Final = "virtual"
"""The model of a device that a node only declares."""
_STACK: Final = "stack.json"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a fleet is reached, and as whom; opens clients of it."""

    profile: Profile
    project: str = ""
    options: dict[str, Any]

    def client(self) -> AsyncClient:
        """A signed-in client."""
        return AsyncClient.open(self.profile, project=self.project, **self.options)


async def reach(project: str, tell: Tell) -> Access:
    """The fleet that is configured; a stack of this machine is started when none is, or when its own has ended.

    Raises FailedPrecondition (STACK_NOT_INSTALLED, STACK_NOT_STARTED, PROFILE_INVALID).
    """
    try:
        profile = Profile.load()
    except FailedPrecondition as error:
        if error.reason != "PROFILE_MISSING" or os.environ.get("LEPTON_PROFILE"):
            raise
        folder = home()
        tell(f"no Lepton is configured: starting one on this machine, in {folder}; `lepton down` stops it")
        await _start(folder, tell)
        profile = Profile.load(folder / FILE)
    else:
        if (profile.folder / _STACK).is_file() and _is_installed():
            await _start(profile.folder, tell)  # nothing happens when it runs
            profile = Profile.load(profile.folder / FILE)
    options = await asyncio.to_thread(_credentials, profile)
    access = Access(profile=profile, project=project or profile.project or DEFAULT_PROJECT, options=options)
    if "password" in options and not project and not profile.project:
        async with access.client() as client:
            with contextlib.suppress(AlreadyExists):
                await client.projects.create(DEFAULT_PROJECT)
    return access


def _credentials(profile: Profile) -> dict[str, Any]:
    """An API key of the environment, else whoever signed in, else the administrator of a stack of one's own."""
    if api_key := os.environ.get("LEPTON_API_KEY", ""):
        return {"api_key": api_key}
    password = profile.folder / "secrets" / "admin-password"
    if not profile.credentials_file.is_file() and password.is_file():
        return {"user": "admin", "password": password.read_text().strip()}
    return {}


def _is_installed() -> bool:
    return importlib.util.find_spec("deploy") is not None


async def _start(folder: Path, tell: Tell) -> None:
    if not _is_installed():
        raise FailedPrecondition("STACK_NOT_INSTALLED", profile=str(folder / FILE))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.local", "up",
        env=_environment(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    async for line in process.stdout:
        said.append(line.decode(errors="replace").strip())
        if "is up already" not in said[-1]:
            tell(said[-1])
    if await process.wait():
        problem = next((line.removeprefix("error: ") for line in said if line.startswith("error: ")), "see above")
        raise FailedPrecondition("STACK_NOT_STARTED", home=str(folder), why=problem)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "LEPTON_HOME": str(folder.resolve())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What the ranks of a training get."""

    each: int
    """Devices for each rank."""
    words: str
    """What that means, for people."""


def devices(nodes: Iterable[Node], count: int, pools: Sequence[str] = ()) -> Devices:
    """What `count` ranks get of a fleet, in some pools or in any: a GPU each where there are any at all; pure."""
    chosen = {pool.rpartition("/")[2] for pool in pools}
    models = [
        device.model
        for node in nodes
        if node.state == Node.READY and (not chosen or node.name.split("/")[1] in chosen)
        for device in node.devices
    ]
    gpus = sum(model != VIRTUAL for model in models)
    ranks = f"{count} rank{'s' if count > 1 else ''}"
    if gpus:
        kinds = ", ".join(sorted({model for model in models if model != VIRTUAL}))
        return Devices(each=1, words=f"{ranks} on one GPU each, of {gpus} ({kinds}); they speak NCCL")
    what = f"{ranks} on CPUs, which speak gloo: there are no GPUs here"
    if len(models) >= count:
        return Devices(each=1, words=f"{what}, only {len(models)} virtual devices")
    return Devices(each=0, words=what)
