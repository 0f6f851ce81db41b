"""A call that names a revision of the policy is decided by that one or a later one, by every service."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.call import POLICY_REVISION
from lepton.errors import InvalidArgument, NotFound, Unavailable
from tests.harness.mesh import Mesh, serving

ACME = EchoMessage(name="projects/acme/jobs/one", text="hello")


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with serving((add_echo_to_server, Echo())) as running:
        yield running


async def change(mesh: Mesh, revision: str, **options: Any) -> Any:
    async with mesh.client("users/alice") as channel:
        return await EchoStub(channel).Change(ACME, metadata=((POLICY_REVISION, revision),), timeout=2, **options)


async def test_a_service_that_is_behind_does_not_decide(mesh: Mesh) -> None:
    """The new enemy: alice's role was taken away at 2; a service that still lives at 1 must not let her in."""
    assert (await change(mesh, "1")).text == "hello"
    with pytest.raises(Unavailable) as caught:
        await change(mesh, "2")
    assert (caught.value.reason, dict(caught.value.metadata)) == ("POLICY_BEHIND", {"revision": "1", "wanted": "2"})
    mesh.change_policy(bindings=())
    with pytest.raises(NotFound):
        await change(mesh, "2")


async def test_without_the_revision_the_old_policy_decides(mesh: Mesh) -> None:
    """The negative control: who does not say what was seen is answered by what the service knows."""
    async with mesh.client("users/alice") as channel:
        assert (await EchoStub(channel).Change(ACME)).text == "hello"


@pytest.mark.parametrize("revision", ["x", "-1", "1.5", "9" * 40, " 1", "1e3"])
async def test_a_revision_is_a_number(mesh: Mesh, revision: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await change(mesh, revision)
    assert POLICY_REVISION in str(caught.value.fields)
