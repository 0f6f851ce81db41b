"""Row 32 at the gateway: every method of the inference protocol, about another project's model and about nobody's."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc.aio
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from services.inference.envoy import Route, Routes, Target, render, write
from services.inference.envoy.access import CallRules
from tests.harness.gateway_caller import channel
from tests.harness.named_replica import named_replica
from tests.harness.serving import RunningGateway, gateway
from tests.harness.wait import until
from tests.tenancy.answers import Answer, ask
from tests.tenancy.rpcs import Rpc

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

EXISTING, ABSENT, OWN, OWN_ABSENT = "zebra.digits", "zebra.nobody", "alpha.digits", "alpha.nobody"
METHODS: Final = [Rpc(method) for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
OF_A_MODEL: Final = frozenset(
    {"ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"}
)


@dataclass
class Front:
    """A gateway before a model of either tenant, and callers of it."""

    running: RunningGateway
    routes: Routes
    connection: grpc.aio.Channel

    async def ask(self, rpc: Rpc, model: str, subject: str, **claims: Any) -> Answer:
        """Call a method about a model."""
        token = self.running.authority.token(subject=subject, **claims)
        request = _request(rpc, model)
        return await ask(self.connection, rpc, request, metadata=(("authorization", f"Bearer {token}"),))

    def use(self, rules: CallRules) -> None:
        """Another policy."""
        self.running.gateway = replace(self.running.gateway, tokens=replace(self.running.gateway.tokens, calls=rules))
        write(self.running.gateway.directory, render(self.running.gateway, self.routes))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    async with AsyncExitStack() as exits:
        running = await exits.enter_async_context(gateway(tmp_path_factory.mktemp("tenancy") / "envoy"))
        replica = await exits.enter_async_context(named_replica("one"))
        target = Target(revision=1, endpoints=(replica.endpoint,))
        routes = Routes(routes=tuple(Route(model=model, targets=(target,)) for model in (EXISTING, OWN)))
        await running.route(routes)
        found = Front(running, routes, await exits.enter_async_context(channel(running)))
        found.use(CallRules(grants={"users/zelda": frozenset({"zebra"}), "users/adam": frozenset({"alpha"})}))

        async def is_open() -> bool:
            infer = next(rpc for rpc in METHODS if rpc.name == "ModelInfer")
            return (await found.ask(infer, OWN, "users/adam")).code == "OK"

        await until(is_open)
        yield found


@pytest.mark.parametrize("name", sorted(OF_A_MODEL))
@pytest.mark.parametrize("claims", [{}, {"within": "projects/alpha"}, {"permissions": ["*.get"]}], ids=str)
@pytest.mark.parametrize("subject", ["users/adam", "users/nobody"])
async def test_another_projects_model_looks_like_none(front: Front, name: str, claims: Any, subject: str) -> None:
    rpc = next(rpc for rpc in METHODS if rpc.name == name)
    found = await front.ask(rpc, EXISTING, subject, **claims)
    assert found.code == "NOT_FOUND"
    assert _timeless(found) == _timeless((await front.ask(rpc, ABSENT, subject, **claims)).with_text(ABSENT, EXISTING))
    own = await front.ask(rpc, OWN_ABSENT, subject, **claims)
    assert own.code == found.code, "and like one of its own that is absent"


@pytest.mark.parametrize("name", sorted(OF_A_MODEL))
async def test_its_owner_gets_through(front: Front, name: str) -> None:
    """The control: the request itself is a good one. What the replica does not implement, it says itself."""
    rpc = next(rpc for rpc in METHODS if rpc.name == name)
    assert (await front.ask(rpc, EXISTING, "users/zelda")).code in ("OK", "UNIMPLEMENTED")


async def test_every_other_method_answers_alike_whatever_it_is_asked_about(front: Front) -> None:
    others = [rpc for rpc in METHODS if rpc.name not in OF_A_MODEL]
    assert len(others) + len(OF_A_MODEL) == len(METHODS)
    for rpc in others:
        found = await front.ask(rpc, EXISTING, "users/adam")
        absent = await front.ask(rpc, ABSENT, "users/adam")
        assert _timeless(found) == _timeless(absent.with_text(ABSENT, EXISTING)), rpc.name
        assert not found.holds(["zebra"]), rpc.name


async def test_a_gateway_that_says_denied_for_what_is_there_is_caught(front: Front) -> None:
    """The control: a caller with a role there that does not predict hears another answer, and is told of it."""
    rules = front.running.gateway.tokens.calls
    rpc = next(rpc for rpc in METHODS if rpc.name == "ModelInfer")
    front.use(replace(rules, known={"users/adam": frozenset({EXISTING})}))

    async def is_told_apart() -> bool:
        found = await front.ask(rpc, EXISTING, "users/adam")
        absent = await front.ask(rpc, ABSENT, "users/adam")
        return _timeless(found) != _timeless(absent.with_text(ABSENT, EXISTING))

    await until(is_told_apart)
    front.use(rules)


def _request(rpc: Rpc, model: str) -> Any:
    request = rpc.empty()
    for field in ("model_name", "name"):
        if field in request.DESCRIPTOR.fields_by_name:
            setattr(request, field, model)
    return request


def _timeless(answer: Answer) -> Answer:
    """Without when it was and what call it was: every answer of Envoy has these."""
    drop = ("date", "traceparent")
    initial, trailing = (
        tuple(pair for pair in pairs if pair[0] not in drop) for pairs in (answer.initial, answer.trailing)
    )
    return replace(answer, initial=initial, trailing=trailing)
