"""Rate limits: every method has one, nobody starves the others, and who is refused hears when to come again."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc.aio import EOF

from bench.echo import Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis.config import ConfigError, ServiceConfig, load
from chassis.method import Idempotency, Method, rule_of
from chassis.middleware.rate_limit import Buckets, RateLimits, address_of
from chassis.rates import HEAVY, RATES, Kind, Rate, kind_of, rates_with
from lepton import errors
from tests.harness.mesh import Binding, Mesh, serving
from tests.harness.protos import every_method

ACME = EchoMessage(name="projects/acme/jobs/one", text="x", count=1)
FREE = Rate(per_s=1e6, burst=1e6)


def methods() -> Iterator[Method]:
    for each in every_method():
        yield method_of(each)


def method_of(found: MethodDescriptor) -> Method:
    service = found.containing_service.full_name
    return Method(
        path=f"/{service}/{found.name}",
        service=service,
        name=found.name,
        streams_requests=found.client_streaming,
        streams_responses=found.server_streaming,
        rule=rule_of(found),
        idempotency=Idempotency(found.GetOptions().idempotency_level),
        request_type=found.input_type,
    )


def test_every_method_has_a_kind_and_every_kind_a_rate() -> None:
    kinds = {each.path: kind_of(each) for each in methods()}
    assert len(kinds) > 130
    assert set(kinds.values()) <= set(RATES)
    assert set(Kind) == set(RATES)
    assert all(rate.per_s > 0 and rate.burst >= rate.per_s for rate in RATES.values())


def test_what_is_called_heavy_exists() -> None:
    assert set() == HEAVY - {f"{each.service}.{each.name}" for each in methods()}


def test_what_plans_or_walks_the_log_is_heavy() -> None:
    """A method that is added to these services is heavy until somebody says otherwise, here and in the table."""
    light = {
        each.path
        for each in methods()
        if each.service in {"lepton.scheduler.v1.PlanningService", "lepton.auth.v1.AuditService"}
        and kind_of(each) is not Kind.HEAVY
    }
    assert light == set()


def test_what_anyone_may_call_is_bounded_by_address() -> None:
    public = {each.path: kind_of(each) for each in methods() if each.rule is not None and each.rule.public}
    assert set(public.values()) == {Kind.PUBLIC, Kind.SIGN_IN}
    assert public["/lepton.auth.v1.SessionService/SignIn"] is Kind.SIGN_IN
    assert public["/lepton.auth.v1.SessionService/GetJwks"] is Kind.PUBLIC


def test_no_method_is_left_without_a_rule() -> None:
    assert [each.path for each in methods() if each.rule is None] == []


def limits(**changes: Any) -> RateLimits:
    unlimited = {kind: Rate(per_s=0, burst=0) for kind in Kind}
    return RateLimits(**{"caller": FREE, "project": FREE, "methods": unlimited, **changes})


async def refused(stub: EchoStub, method: str = "Echo") -> errors.ResourceExhausted:
    with pytest.raises(errors.ResourceExhausted) as caught:
        await getattr(stub, method)(ACME)
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 0
    return caught.value


async def test_a_method_s_own_limit_leaves_the_caller_s_other_methods_alone() -> None:
    methods = {**limits().methods, Kind.WRITE: Rate(per_s=0.001, burst=2)}
    async with (
        serving((add_echo_to_server, Echo()), limits=limits(methods=methods)) as mesh,
        mesh.client("users/alice") as channel,
    ):
        stub = EchoStub(channel)
        for _ in range(2):
            await stub.Change(ACME)
        error = await refused(stub, "Change")
        assert error.metadata["method"].endswith("/Change")
        for _ in range(5):
            await stub.Echo(ACME)


async def test_a_project_s_limit_is_shared_by_its_people_and_by_nobody_else() -> None:
    bindings = [
        Binding(principal="users/alice", role="roles/developer", scope="projects/acme"),
        Binding(principal="users/carol", role="roles/developer", scope="projects/acme"),
        Binding(principal="users/bob", role="roles/developer", scope="projects/other"),
    ]
    tight = limits(project=Rate(per_s=0.001, burst=4))
    async with (
        serving((add_echo_to_server, Echo()), limits=tight, bindings=bindings) as mesh,
        mesh.client("users/alice") as one,
        mesh.client("users/carol") as two,
        mesh.client("users/bob") as bob,
    ):
        for stub in (EchoStub(one), EchoStub(two)):
            for _ in range(2):
                await stub.Echo(ACME)
        for stub in (EchoStub(one), EchoStub(two)):
            assert (await refused(stub)).metadata["project"] == "projects/acme"
        await EchoStub(bob).Echo(EchoMessage(name="projects/other", text="x"))


async def test_without_the_project_s_limit_one_project_takes_all() -> None:
    """The control: the same calls pass."""
    async with (
        serving((add_echo_to_server, Echo()), limits=limits()) as mesh,
        mesh.client("users/alice") as channel,
    ):
        for _ in range(8):
            await EchoStub(channel).Echo(ACME)


async def test_without_a_token_the_address_is_counted() -> None:
    methods = {**limits().methods, Kind.SIGN_IN: Rate(per_s=0.001, burst=2)}
    async with serving((add_echo_to_server, Echo()), limits=limits(methods=methods)) as mesh:
        for attempt in range(3):  # another connection is no other address
            async with mesh.client(None) as channel:
                if attempt < 2:
                    await EchoStub(channel).Anyone(ACME)
                else:
                    assert (await refused(EchoStub(channel), "Anyone")).metadata["caller"] == "ipv4:127.0.0.1"


class Held(Echo):
    """Streams that last until they are let go."""

    def __init__(self) -> None:
        self.open = 0
        self.go = asyncio.Event()

    async def Watch(self, request: Any, context: Any) -> Any:
        self.open += 1
        try:
            yield request
            await self.go.wait()
        finally:
            self.open -= 1


async def opened(mesh: Mesh, channel: Any, count: int) -> list[Any]:
    calls = [EchoStub(channel).Watch(ACME) for _ in range(count)]  # one that nobody holds is cancelled
    for call in calls:
        await call.read()
    return calls


async def test_streams_are_counted_while_they_are_open() -> None:
    servicer = Held()
    async with (
        serving((add_echo_to_server, servicer), limits=limits(caller_streams=3)) as mesh,
        mesh.client("users/alice") as channel,
        mesh.client("users/root") as other,
    ):
        calls = await opened(mesh, channel, 3)
        refusal = EchoStub(channel).Watch(ACME)
        with pytest.raises(errors.ResourceExhausted) as caught:
            await refusal.read()
        assert (caught.value.reason, caught.value.metadata["holder"]) == ("STREAMS_EXHAUSTED", "users/alice")
        await EchoStub(channel).Echo(ACME)  # calls that end at once are none of it
        others = await opened(mesh, other, 1)
        assert others
        servicer.go.set()
        for call in calls:
            assert await call.read() is EOF
        calls = await opened(mesh, channel, 3)


async def test_the_streams_of_a_project_are_counted_together() -> None:
    async with (
        serving((add_echo_to_server, Held()), limits=limits(project_streams=2)) as mesh,
        mesh.client("users/alice") as one,
        mesh.client("users/carol") as two,
    ):
        held = [*await opened(mesh, one, 1), *await opened(mesh, two, 1)]
        with pytest.raises(errors.ResourceExhausted) as caught:
            await EchoStub(two).Watch(ACME).read()
        assert caught.value.metadata["holder"] == "projects/acme"
        assert len(held) == 2


async def test_a_stream_that_was_refused_is_not_counted() -> None:
    async with (
        serving((add_echo_to_server, Held()), limits=limits(caller_streams=2)) as mesh,
        mesh.client("users/alice") as channel,
    ):
        for _ in range(5):
            with pytest.raises(errors.InvalidArgument):
                await EchoStub(channel).Watch(EchoMessage(name="projects/acme")).read()
        await opened(mesh, channel, 2)


async def test_peers_of_the_mesh_are_not_limited() -> None:
    tight = limits(caller=Rate(per_s=0.001, burst=1), caller_streams=1)
    async with serving((add_echo_to_server, Echo()), limits=tight) as mesh, mesh.peer("service/scheduler") as peers:
        for _ in range(5):
            await EchoStub(peers.channel("trainer")).Echo(ACME, timeout=10)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:50000", "ipv4:10.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50000", "ipv6:2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2::9%5D:1", "ipv6:2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "ipv6:fe80::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:1", "ipv4:10.0.0.1"),
        ("ipv6:[nonsense]:1", "ipv6:[nonsense]"),
        ("unix:/run/x", "unix"),
        ("", ""),
    ],
)
def test_whom_an_address_stands_for(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_who_comes_from_many_addresses_does_not_fill_the_memory() -> None:
    buckets = Buckets(Rate(per_s=1, burst=1), most=100)
    for at in range(1000):
        buckets.take(f"ipv4:{at}", 0.0)
    assert len(buckets) <= 100
    assert buckets.take("ipv4:999", 0.0) > 0  # the newest are remembered


def test_a_bucket_fills_again() -> None:
    buckets = Buckets(Rate(per_s=10, burst=2), most=10)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]
    assert buckets.take("a", 0.1) == 0.0
    assert buckets.take("b", 0.1) == 0.0


def test_a_service_s_settings_change_the_rates(tmp_path: Any) -> None:
    file = tmp_path / "x.toml"
    file.write_text('service = "x"\n[limits.rates]\nheavy = 5\n')
    assert rates_with(load(ServiceConfig, file).limits.rates)[Kind.HEAVY] == Rate(per_s=5, burst=20)
    file.write_text('service = "x"\n[limits.rates]\nhevy = 5\n')
    with pytest.raises(ConfigError, match="limits.rates.hevy is no kind of method; there are heavy, list"):
        load(ServiceConfig, file)
