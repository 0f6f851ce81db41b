"""Who gets through the gateway: roles on resources, limited tokens, revocations; all without a drained connection."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from services.inference.envoy import CallRules, Route, Routes, Target, render, write
from tests.harness.gateway_caller import Caller, channel, reason
from tests.harness.named_replica import named_replica
from tests.harness.serving import GRANTS, Authority, RunningGateway, gateway
from tests.harness.wait import until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
MODEL = "demo.digits"
ABOVE = "projects/demo/models/cnn"


@dataclass
class Door:
    """A gateway before two models, and one connection that outlives every change of the policy."""

    front: RunningGateway
    routes: Routes
    connection: grpc.aio.Channel
    changes: int = 0

    def caller(self, subject: str, **claims: Any) -> Caller:
        return Caller.of(self.connection, self.front.authority.token(subject=subject, **claims))

    @property
    def rules(self) -> CallRules:
        """The policy in force."""
        return self.front.gateway.tokens.calls

    def use(self, rules: CallRules) -> list[str]:
        """Another policy; the files that it changed."""
        tokens = replace(self.front.gateway.tokens, calls=rules)
        self.front.gateway = replace(self.front.gateway, tokens=tokens)
        return write(self.front.gateway.directory, render(self.front.gateway, self.routes))

    async def granted(self, **grants: str) -> None:
        """Everybody's grants, in place of those before, when they are in force."""
        rules = {f"users/{user}": frozenset(scopes.split()) for user, scopes in grants.items()}
        self.changes += 1
        probe = f"users/probe-{self.changes}"  # whoever passes as this one is judged by these rules
        assert self.use(CallRules(grants={**rules, probe: frozenset({"demo"})})) == ["ecds/policy.json"]
        await until(lambda: self.passes(probe))

    async def passes(self, subject: str) -> bool:
        return await self.caller(subject).refused(MODEL) == ("OK", "")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with AsyncExitStack() as exits:
        front = await exits.enter_async_context(gateway(tmp_path_factory.mktemp("access") / "envoy"))
        one = await exits.enter_async_context(named_replica("one"))
        target = Target(revision=1, endpoints=(one.endpoint,))
        routes = Routes(
            routes=(
                Route(model=MODEL, targets=(target,), above=ABOVE),
                Route(model="demo.faces", targets=(target,), above="projects/demo/models/vit"),
            )
        )
        await front.route(routes)
        door = Door(front, routes, await exits.enter_async_context(channel(front)))
        await until(lambda: door.passes("users/ada"))
        yield door


@pytest.mark.parametrize(
    ("scopes", "digits", "faces"),
    [
        ("*", True, True),
        ("demo", True, True),
        ("demo.digits", True, False),
        (ABOVE, True, False),
        ("projects/demo/models/vit", False, True),
        ("other other.digits projects/other/models/cnn", False, False),
        ("", False, False),
    ],
)
async def test_a_role_counts_on_the_deployment_its_model_its_project_or_everywhere(
    door: Door, scopes: str, digits: bool, faces: bool
) -> None:
    await door.granted(eve=scopes)
    eve = door.caller("users/eve")
    unserved = ("NOT_FOUND", "MODEL_NOT_SERVED")
    assert await eve.refused(MODEL) == (("OK", "") if digits else unserved)
    assert await eve.refused("demo.faces") == (("OK", "") if faces else unserved)
    assert await eve.refused("demo.nowhere") == unserved, "who may not use it does not learn whether it exists"
    assert await eve.refused("*") == unserved
    assert await eve.refused("demo.digits demo") == unserved


async def test_who_knows_the_project_hears_that_its_role_does_not_predict(door: Door) -> None:
    """As in every service: who has any role there is denied, everybody else is told of nothing."""
    for scope in ("*", "demo", MODEL, ABOVE):
        await door.granted()
        door.use(replace(door.rules, known={"users/eve": frozenset({scope})}))
        eve = door.caller("users/eve")
        await until(lambda: _equal(eve.refused(MODEL), ("PERMISSION_DENIED", "PERMISSION_DENIED")))  # noqa: B023
    assert await eve.refused("demo.faces") == ("NOT_FOUND", "MODEL_NOT_SERVED")


async def _equal(found: Awaitable[object], expected: object) -> bool:
    return (await found) == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, "OK"),
        ({"permissions": ["deployments.get"]}, "OK"),
        ({"permissions": ["jobs.get", "deployments.*"]}, "OK"),
        ({"permissions": ["*.get"]}, "OK"),
        ({"permissions": ["jobs.*"]}, "PERMISSION_DENIED"),
        ({"within": "projects/demo"}, "OK"),
        ({"within": "projects/demo/deployments/digits"}, "OK"),
        ({"within": ABOVE}, "OK"),
        ({"within": "projects/demo/deployments/faces"}, "NOT_FOUND"),
        ({"within": "projects/other"}, "NOT_FOUND"),
        ({"within": "projects/demo/jobs/digits"}, "NOT_FOUND"),
    ],
)
async def test_a_limited_token_opens_no_more_than_its_limits(door: Door, claims: Any, expected: str) -> None:
    await door.granted(eve="demo")
    assert (await door.caller("users/eve", **claims).refused(MODEL))[0] == expected


async def test_a_call_about_which_the_policy_cannot_decide_is_refused(door: Door) -> None:
    await door.granted(eve="demo")
    odd = door.caller("users/eve", permissions=5)
    assert await odd.refused(MODEL) == ("INTERNAL", "INTERNAL")
    assert await odd.refused(MODEL, ("x-lepton-route", MODEL)) == ("INTERNAL", "INTERNAL")


def _revoke_token(rules: CallRules) -> CallRules:
    return replace(rules, revoked_tokens=frozenset({"t-1"}))


def _revoke_session(rules: CallRules) -> CallRules:
    return replace(rules, revoked_sessions=frozenset({"s-1"}))


def _revoke_principal(rules: CallRules) -> CallRules:
    return replace(rules, revoked_principals={"users/ada": time.time() + 1})


@pytest.mark.parametrize("revoke", [_revoke_token, _revoke_session, _revoke_principal])
async def test_a_revocation_is_in_force_at_once_and_harms_no_other_call(
    door: Door, revoke: Callable[[CallRules], CallRules]
) -> None:
    door.use(GRANTS)
    ada = door.caller("users/ada", jti="t-1", sid="s-1")
    other = door.caller("users/root", jti="t-2", sid="s-2")

    async def is_let_in() -> bool:
        return await ada.refused(MODEL) == ("OK", "")

    await until(is_let_in)
    began = time.monotonic()
    assert door.use(revoke(GRANTS)) == ["ecds/policy.json"]

    async def is_refused() -> bool:
        assert await other.refused(MODEL) == ("OK", "")
        return await ada.refused(MODEL) == ("UNAUTHENTICATED", "TOKEN_REVOKED")

    await until(is_refused, 5)
    assert time.monotonic() - began < 5
    door.use(GRANTS)
    await until(is_let_in)  # the control: without the mark the same token passes


async def test_a_principal_that_was_revoked_signs_in_again(door: Door) -> None:
    mark = time.time() - 100
    door.use(replace(GRANTS, revoked_principals={"users/ada": mark}))
    old = door.caller("users/ada", iat=int(mark) - 10)

    async def is_refused() -> bool:
        return await old.refused(MODEL) == ("UNAUTHENTICATED", "TOKEN_REVOKED")

    await until(is_refused)
    assert await door.caller("users/ada").refused(MODEL) == ("OK", "")
    door.use(GRANTS)


async def test_a_connection_lives_through_changes_of_policy_and_keys(door: Door) -> None:
    door.use(GRANTS)
    ada = door.caller("users/ada")
    stream = ada.stub.ModelStreamInfer(metadata=ada.metadata, timeout=30)
    await stream.write(service_pb2.ModelInferRequest(model_name=MODEL))
    assert (await stream.read()).infer_response.id == "one"
    connections = await door.front.admin.counter("listener_manager.listener_modified")
    for number in range(5):
        door.use(replace(GRANTS, revoked_tokens=frozenset({f"t-{number}"})))
        assert await ada.refused(MODEL) == ("OK", "")
    keys = door.front.gateway.tokens.jwks.replace('"keys": [', '"keys": [' + _another_key() + ", ")
    door.front.gateway = replace(door.front.gateway, tokens=replace(door.front.gateway.tokens, jwks=keys))
    assert write(door.front.gateway.directory, render(door.front.gateway, door.routes)) == ["ecds/authn.json"]
    assert await ada.refused(MODEL) == ("OK", "")
    await stream.write(service_pb2.ModelInferRequest(model_name=MODEL))
    assert (await stream.read()).infer_response.id == "one", "the stream of before is still open"
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK
    assert await door.front.admin.counter("listener_manager.listener_modified") == connections
    assert await door.front.admin.rejected() == frozenset()


async def test_a_policy_of_ten_thousand_principals_is_followed(door: Door) -> None:
    many = {f"users/u{number}": frozenset({f"p{number}", f"p{number}.digits"}) for number in range(10_000)}
    odd = 'users/"]=1 os.exit() --'
    door.use(CallRules(grants={**many, **GRANTS.grants, odd: frozenset({"demo"})}))
    await until(lambda: door.passes(odd))
    assert await door.caller("users/u77").refused("p77.digits") == ("NOT_FOUND", "MODEL_NOT_SERVED")
    assert await door.caller("users/u77").refused(MODEL) == ("NOT_FOUND", "MODEL_NOT_SERVED")
    assert await door.passes("users/root")
    door.use(GRANTS)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (lambda authority: "", ("UNAUTHENTICATED", "TOKEN_MISSING")),
        (lambda authority: authority.token("demo", lifetime_s=-60), ("UNAUTHENTICATED", "TOKEN_EXPIRED")),
        (lambda authority: authority.token("demo")[:-4], ("UNAUTHENTICATED", "TOKEN_INVALID")),
        (lambda authority: authority.token("demo", audience="other"), ("UNAUTHENTICATED", "TOKEN_INVALID")),
    ],
    ids=["missing", "expired", "signature", "audience"],
)
async def test_a_token_that_does_not_hold_is_refused_with_the_reason(
    door: Door, token: Callable[[Any], str], expected: tuple[str, str]
) -> None:
    caller = Caller.of(door.connection, token(door.front.authority))
    if not token(door.front.authority):
        caller.metadata = ()
    assert await caller.refused(MODEL) == expected


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("SystemSharedMemoryRegister", service_pb2.SystemSharedMemoryRegisterRequest),
        ("CudaSharedMemoryStatus", service_pb2.CudaSharedMemoryStatusRequest),
        ("RepositoryModelLoad", service_pb2.RepositoryModelLoadRequest),
        ("RepositoryIndex", service_pb2.RepositoryIndexRequest),
        ("LogSettings", service_pb2.LogSettingsRequest),
    ],
)
async def test_what_the_gateway_does_not_offer_is_refused_with_the_reason(
    door: Door, method: str, request_type: Any
) -> None:
    ada = door.caller("users/ada")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(ada.stub, method)(request_type(), metadata=ada.metadata, timeout=5)
    assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.PERMISSION_DENIED, "METHOD_NOT_OFFERED")
    assert method in str(refused.value.details())


def _another_key() -> str:
    return Authority("k9").rules.jwks.removeprefix('{"keys": [').removesuffix("]}")
