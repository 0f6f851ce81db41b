"""One world for these tests, with two tenants that have the same things and nothing to do with each other."""

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chassis.access import Decision
from tests.harness.etcd import EtcdCluster
from tests.tenancy.answers import Answer
from tests.tenancy.leaks import Prober
from tests.tenancy.population import Belongings, likeness, populate
from tests.tenancy.rpcs import every_rpc
from tests.tenancy.world import World, running_world

CALLER, OTHER = "alpha", "zebra"


@dataclass
class Tenants:
    """The caller, the other, and what the caller was answered about the other before there was any other."""

    world: World
    caller: Belongings
    other: Belongings
    imagined: Belongings
    before: dict[str, Answer]

    @contextmanager
    def careless(self, service: str, instead: Decision = Decision.ALLOWED) -> Iterator[None]:
        """A control: within the block a service answers so where it should say that there is no such thing."""
        access = self.world.apps[service].access
        decide = access._decide

        def decided(*arguments: Any, **facts: Any) -> Any:
            found = decide(*arguments, **facts)
            return instead if found is Decision.HIDDEN else found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(access, "_decide", decided)
            access._decisions.clear()
            yield
        access._decisions.clear()

    @property
    def prober(self) -> Prober:
        return Prober(self.world, self.caller, self.other)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def tenants(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tenants]:
    """The world of those tests that leave its names alone."""
    async with two_tenants(tmp_path_factory.mktemp("tenancy")) as found:
        yield found


@asynccontextmanager
async def two_tenants(folder: Path) -> AsyncIterator[Tenants]:
    """A world of its own, for the block."""
    async with EtcdCluster(folder / "etcd") as etcd, running_world(etcd.endpoints, folder) as world:
        caller = await populate(world, CALLER, str(uuid.uuid4()))
        imagined = likeness(caller, OTHER)
        before = await answers_about(Prober(world, caller, imagined))
        other = await populate(world, OTHER, str(uuid.uuid4()))
        yield Tenants(world=world, caller=caller, other=other, imagined=imagined, before=before)


async def answers_about(prober: Prober) -> dict[str, Answer]:
    """What a caller hears who calls every method of a tenant's project as that tenant would, by the method's path."""
    return {
        rpc.path: await prober.ask(rpc, rpc.request(prober.other, "t0000000"))
        for rpc in every_rpc()
        if rpc.is_in_project
    }
