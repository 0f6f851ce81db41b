"""A running stack, shared by the tests of one module."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from deploy.local import control
from deploy.local.home import Home
from lepton import data
from lepton.client import AsyncClient
from lepton.errors import AlreadyExists
from lepton.profile import Profile
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers

PROJECT = "mesh"


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack of its own state directory."""

    home: Home

    @property
    def profile(self) -> Profile:
        return Profile.load(self.home.profile_file)

    def pid(self, component: str) -> int:
        """The process of a component now."""
        found: dict[str, Any] = control.state(self.home) or {}
        pid: int = found["components"][component]["pid"]
        return pid

    def restarts(self, component: str) -> int:
        found: dict[str, Any] = control.state(self.home) or {}
        restarts: int = found["components"][component]["restarts"]
        return restarts

    def kill(self, component: str) -> None:
        """SIGKILL, as a crash would."""
        psutil.Process(self.pid(component)).kill()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = Home(tmp_path_factory.mktemp("stack") / "home")
    hold = control.start(home, lambda _component: None)
    try:
        yield Stack(home)
    finally:
        control.stop(home)
        if hold is not None:
            hold.release()


@pytest_asyncio.fixture
async def client(stack: Stack) -> AsyncIterator[AsyncClient]:
    """The administrator, in the tests' project."""
    password = await asyncio.to_thread(stack.home.admin_password.read_text)
    async with AsyncClient.open(stack.profile, project=PROJECT, user="admin", password=password.strip()) as opened:
        with contextlib.suppress(AlreadyExists):
            await opened.projects.create(PROJECT)
        yield opened


async def digits_job(client: AsyncClient, *, epochs: int, workers: int = 4, pools: tuple[str, ...] = ()) -> Job:
    """A job on the handwritten digits, not submitted yet."""
    artifact = await client.artifacts.upload(data.to_safetensors(data.digits()))
    return Job(
        recipe=Recipe(name="image_classifier", epochs=epochs),
        dataset=artifact.digest,
        workers=Workers(count=workers),
        pools=pools,
        max_restarts=5,
    )


def leftovers(home: Path) -> list[str]:
    """The command lines of processes that belong to a state directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(home) in line:
            found.append(line)
    return found
