"""One control plane for the tests of a module, and one launcher for its uninterrupted runs."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from lepton.client import AsyncClient
from services.agent.launcher import LauncherClient
from tests.harness.elastic_job import ElasticJob, Plan, Told, uninterrupted
from tests.harness.training_stack import TrainingStack

FAST = {
    "scheduler": {"nodes": {"ttl_s": 4.0}, "elastic": {"settled_s": 0.3, "cooled_s": 0.2}},
    "agent": {"grace_s": 5.0},
}


@dataclass
class References:
    """The uninterrupted runs that jobs are compared with."""

    launcher: LauncherClient
    folder: Path
    _runs: dict[Plan, Told] = field(default_factory=dict)

    async def of(self, plan: Plan) -> Told:
        """That of a plan, run by as many ranks as its last generation has."""
        wanted = uninterrupted(plan, plan.last)
        if wanted not in self._runs:
            self._runs[wanted] = await ElasticJob(self.launcher, self.folder / str(len(self._runs)), wanted).play()
        return self._runs[wanted]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TrainingStack]:
    async with TrainingStack(tmp_path_factory.mktemp("stack") / "home", settings=FAST) as opened:
        await opened.join("n1")
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stack: TrainingStack) -> AsyncIterator[AsyncClient]:
    async with stack.client() as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def references(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[References]:
    async with LauncherClient(os.environ) as launcher:
        yield References(launcher, tmp_path_factory.mktemp("references"))
