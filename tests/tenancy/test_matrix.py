"""Row 32: every RPC of every service, called about what another tenant has: nothing tells it from what nobody has."""

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from chassis import artifacts
from chassis.access import Decision
from chassis.paging import Pager
from lepton.names import VersionName
from services.inference.deployments import Deployments
from tests.tenancy.conftest import Tenants, answers_about, two_tenants
from tests.tenancy.leaks import Leak, all_leaks
from tests.tenancy.population import ORGANISATIONS, populate
from tests.tenancy.rpcs import Rpc, every_rpc

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tenants(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tenants]:
    """A world of its own: the caller's things get the other's names here."""
    async with two_tenants(tmp_path_factory.mktemp("matrix")) as found:
        yield found


LAST = ("Cancel", "Abort", "Undo", "Delete", "Destroy", "SignOut")
"""What takes away what other calls are about comes behind them."""
ABOVE = ("DeleteCompliancePolicy", "DeleteModel", "DeleteServiceAccount")
"""What has other things in it."""
ENDING = ("DeleteProject", "ShredProject")
"""What takes away all that a tenant has."""


def told(leaks: list[Leak]) -> str:
    """The leaks as a failed test shows them."""
    return "\n".join(map(str, leaks[:10]))


async def test_every_rpc_is_in_the_matrix(tenants: Tenants) -> None:
    served, world = tenants.world.served, tenants.world
    count = sum(1 for app in world.apps.values() for each in app.server.methods if not each.is_infrastructure)  # type: ignore[union-attr]
    assert {rpc.path for rpc in every_rpc()} == {path for path in served if path.startswith("/lepton.")}
    assert count == len(every_rpc()), "a method is served twice, or is none of Lepton's"


async def test_every_rpc_about_a_project_has_a_resource_in_the_matrix(tenants: Tenants) -> None:
    """Whoever adds a kind of resource adds one to tests/tenancy/population.py, and what its methods need to rpcs.py."""
    for rpc in every_rpc():
        if not rpc.is_in_project:
            continue
        value = rpc.resource(rpc.request(tenants.other, "t0000000"))
        assert value.startswith(tenants.other.project), f"{rpc.path}: no {rpc.rule.resource} of a tenant, but {value!r}"
        assert rpc.kind(tenants.other) not in ORGANISATIONS, rpc.path


async def test_what_another_has_looks_like_what_nobody_has(tenants: Tenants) -> None:
    prober = tenants.prober
    leaks = await all_leaks(every_rpc(), prober.foreign)
    assert not leaks, told(leaks)
    assert prober.calls > 3 * len(every_rpc())


async def test_who_has_no_role_at_all_learns_nothing_either(tenants: Tenants) -> None:
    stranger = await tenants.world.stranger()
    leaks = await all_leaks(every_rpc(), lambda rpc: tenants.prober.foreign(rpc, stranger))
    leaks += [
        leak
        for leak in await all_leaks(every_rpc(), lambda rpc: tenants.prober.foreign(rpc, ""))
        if leak.what != "is not NOT_FOUND"  # who is not signed in hears that, whatever is asked
    ]
    assert not leaks, told(leaks)


async def test_the_answers_are_those_of_before_there_was_the_other(tenants: Tenants) -> None:
    prober = tenants.prober
    prober.other = tenants.imagined
    after = await answers_about(prober)
    assert after == tenants.before, "byte for byte, with nothing put in place of anything"


async def test_its_owner_is_answered(tenants: Tenants) -> None:
    """The control of the matrix: none of its requests is refused for another reason than whose they are."""
    world = tenants.world
    owner = await populate(world, "delta", str(uuid.uuid4()))
    prober = tenants.prober
    prober.caller = owner
    rpcs = [rpc for rpc in every_rpc() if rpc.is_in_project and rpc.name not in ENDING]
    rpcs.sort(key=lambda rpc: (rpc.name.startswith(LAST), rpc.name.startswith("Delete"), rpc.name in ABOVE))
    for rpc in rpcs:
        answer = await prober.ask(rpc, rpc.request(owner, prober.fresh()))
        assert answer.code in ("OK", "FAILED_PRECONDITION", "ALREADY_EXISTS"), (rpc.path, answer)


async def test_answers_about_ones_own_tell_nothing_of_another(tenants: Tenants) -> None:
    prober = tenants.prober
    reads = [rpc for rpc in every_rpc() if rpc.is_read and not rpc.streams_responses]
    leaks = await all_leaks(reads, lambda rpc: prober.sweep(rpc, rpc.request(tenants.caller, prober.fresh())))
    assert not leaks, told(leaks)
    assert prober.calls > 40


async def test_names_of_anothers_things_in_ones_own_requests_lead_nowhere(tenants: Tenants) -> None:
    prober = tenants.prober
    leaks = await all_leaks(_unary(), prober.references)
    assert not leaks, told(leaks)
    assert prober.calls > 300


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_any_name_in_any_field_leads_nowhere(tenants: Tenants) -> None:
    leaks = await all_leaks(_unary(), lambda rpc: tenants.prober.references(rpc, every=True))
    assert not leaks, told(leaks)


async def test_anothers_page_tokens_are_no_better_than_invented_ones(tenants: Tenants) -> None:
    leaks, pages = await _page_tokens(tenants)
    assert not leaks, told(leaks)
    assert pages >= 8, "too few lists of the other tenant have a second page"


async def _page_tokens(tenants: Tenants) -> tuple[list[Leak], int]:
    """The leaks, and how many lists have a second page."""
    prober, leaks, pages = tenants.prober, [], 0
    for rpc in every_rpc():
        if not rpc.is_in_project or "page_token" not in rpc.descriptor.input_type.fields_by_name:
            continue
        first = rpc.request(tenants.other, "")
        first.page_size = 1
        page: Any = rpc.answer((await prober.ask(rpc, first, tenants.other.token)).messages[0])
        if not page.next_page_token:
            continue
        pages += 1
        own, invented = rpc.request(tenants.caller, ""), rpc.request(tenants.caller, "")
        own.page_token, invented.page_token = page.next_page_token, page.next_page_token[::-1]
        found, alike = await prober.ask(rpc, own), await prober.ask(rpc, invented)
        if found != alike or found.code != "INVALID_ARGUMENT":
            leaks.append(Leak(rpc.path, "takes another's page token", found, alike))
    return leaks, pages


def _unary() -> list[Rpc]:
    return [
        rpc
        for rpc in every_rpc()
        if not rpc.streams_requests and not rpc.streams_responses and rpc.name not in ("SignOut", *ENDING)
    ]


# The controls: with a check taken out of a service, the matrix finds it.


@pytest.mark.parametrize("service", ["auth", "scheduler", "trainer", "inference"])
async def test_a_service_without_the_check_is_caught(tenants: Tenants, service: str) -> None:
    with tenants.careless(service):
        caught = await _caught(tenants, service)
    reads = {rpc.path for rpc in _reads_of(tenants, service)}
    assert caught == reads, reads - caught


async def test_a_service_that_says_denied_instead_of_absent_is_caught(tenants: Tenants) -> None:
    with tenants.careless("trainer", Decision.DENIED):
        assert await _caught(tenants, "trainer") == {rpc.path for rpc in _reads_of(tenants, "trainer")}


async def _caught(tenants: Tenants, service: str) -> set[str]:
    """The reading methods of a service in which the matrix finds a leak now."""
    return {leak.rpc for leak in await all_leaks(_reads_of(tenants, service), tenants.prober.foreign)}


def _reads_of(tenants: Tenants, service: str) -> list[Rpc]:
    """What can be called about another's things, were it allowed, without changing them."""
    served = tenants.world.served
    return [rpc for rpc in every_rpc() if rpc.is_read and rpc.is_in_project and served[rpc.path] == service]


async def _any_version(self: Any, _deployment: Any, text: str) -> VersionName:
    return VersionName.parse((await self._registry.get_version(text)).name)


async def _any_size(self: Any, project: str, digest: str) -> int:
    for each in (project, *(each for each in ("alpha", "zebra") if each != project)):
        if await self.exists(each, digest):
            return 1
    return await _size(self, project, digest)


_size = artifacts.ArtifactStore.size


@pytest.mark.parametrize(
    ("owner", "method", "careless", "rpc"),
    [
        (Deployments, "_version", _any_version, "CreateDeployment"),
        (artifacts.ArtifactStore, "size", _any_size, "CreateJob"),
    ],
)
async def test_a_reference_that_is_not_checked_is_caught(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, careless: Callable[..., Any], rpc: str
) -> None:
    monkeypatch.setattr(owner, method, careless)
    leaks = await all_leaks([each for each in every_rpc() if each.name == rpc], tenants.prober.references)
    assert leaks


async def test_page_tokens_that_are_good_for_any_request_are_caught(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    mac = Pager._mac
    monkeypatch.setattr(Pager, "_mac", lambda self, body, _bound: mac(self, body, b""))
    leaks, _ = await _page_tokens(tenants)
    assert leaks
