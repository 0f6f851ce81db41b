"""Client: every method of AsyncClient, blocking."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

import lepton.client.blocking as blocking
from lepton.client import AsyncClient, Client
from lepton.client.group import Group
from lepton.errors import NotFound
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers
from lepton.trainer.v1.trainer_service_pb2 import LogLine
from tests.harness.small_lepton import PASSWORD, SmallLepton


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmallLepton]:
    async with SmallLepton.serving(tmp_path) as serving:
        yield serving


@pytest.mark.parametrize("group", Group.__subclasses__(), ids=lambda group: group.__name__)
def test_every_group_and_method_has_a_blocking_twin(group: type[Group]) -> None:
    public = {name for name, value in vars(group).items() if inspect.isfunction(value) and not name.startswith("_")}
    twin = getattr(blocking, f"Blocking{group.__name__}")
    assert {name for name in vars(twin) if not name.startswith("_")} == public


def test_the_client_itself_has_twins() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncClient) - public(Client) == {"aclose", "open"}


async def test_it_waits_lists_and_iterates(world: SmallLepton) -> None:
    def use() -> tuple[list[str], str, int, list[str]]:
        with Client(world.profile, user="admin", password=PASSWORD) as client:
            for number in range(3):
                job = Job(recipe=Recipe(name="image_classifier"), workers=Workers(count=1))
                client.jobs.create(f"job-{number}", job)
            names = [job.name for job in client.jobs.list()]
            assert len(client.jobs.list().all()) == 3
            ended = client.jobs.cancel("job-0")
            waited = client.jobs.wait("job-0", timeout_s=5).state
            with pytest.raises(NotFound):
                client.jobs.get("job-9")
            watching = client.jobs.watch("job-1")
            first = next(watching).name
            watching.close()
            client.project = "other"
            return names, ended.name, waited, [first, client.project, client.caller().principal]

    names, cancelled, waited, rest = await asyncio.to_thread(use)
    assert names == [f"projects/acme/jobs/job-{number}" for number in range(3)]
    assert (cancelled, waited) == ("projects/acme/jobs/job-0", Job.CANCELLED)
    assert rest == ["projects/acme/jobs/job-1", "other", "users/admin"]


async def test_logs_are_an_ordinary_iterator(world: SmallLepton) -> None:
    name = "projects/acme/jobs/digits"
    world.table(Job).put(Job(name=name, state=Job.SUCCEEDED))
    world.lines[name] = [LogLine(offset=number, text=str(number)) for number in (1, 2)]

    def use() -> list[str]:
        with Client(world.profile, api_key="lpk_good") as client:
            return [line.text for line in client.jobs.logs("digits", follow=True)]

    assert await asyncio.to_thread(use) == ["1", "2"]


def test_streams_are_generators_so_that_they_can_be_closed() -> None:
    for group in Group.__subclasses__():
        for name, method in vars(group).items():
            if inspect.isasyncgenfunction(method):
                returned = inspect.signature(method).return_annotation
                assert getattr(returned, "__origin__", None) is AsyncGenerator, f"{group.__name__}.{name}"
