"""The middleware as callers meet it: who is let in, what is refused, and with which details."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from bench.echo import SERVICE, Echo, EchoMessage, EchoStub, add_echo_to_server
from chassis import kv
from chassis.middleware import ORDER
from chassis.stack import stack
from lepton import errors
from lepton.errors import DETAILS_KEY
from tests.harness.mesh import Mesh, serving


def test_the_order_is_the_documented_one(mesh_free_stack: Any) -> None:
    assert ORDER == (
        "tracing", "access_log", "audit", "errors", "deadline", "authentication", "authorisation", "rate_limit",
        "validation",
    )  # fmt: skip
    assert [type(each).__module__.rpartition(".")[2] for each in mesh_free_stack] == list(ORDER)


@pytest.fixture
def mesh_free_stack() -> Any:
    from chassis.access import PolicyReplica
    from chassis.rpc_metrics import RpcMetrics

    return stack(PolicyReplica(), RpcMetrics())


ACME = EchoMessage(name="projects/acme/jobs/one", text="hello")
FOREIGN = EchoMessage(name="projects/other/jobs/one", text="hello")

REFUSALS = [
    # method, caller, request -> error, reason
    ("Echo", None, ACME, errors.Unauthenticated, "TOKEN_MISSING"),
    ("SignedIn", None, ACME, errors.Unauthenticated, "TOKEN_MISSING"),
    ("Change", "users/carol", ACME, errors.PermissionDenied, "PERMISSION_DENIED"),
    ("Echo", "users/alice", FOREIGN, errors.NotFound, "JOB_NOT_FOUND"),
    ("Echo", "users/alice", EchoMessage(text="x"), errors.PermissionDenied, "PERMISSION_DENIED"),
    ("Echo", "users/nobody", ACME, errors.NotFound, "JOB_NOT_FOUND"),
    ("Forgotten", "users/root", ACME, errors.PermissionDenied, "METHOD_WITHOUT_RULE"),
    ("ForPeers", "users/root", ACME, errors.PermissionDenied, "PEER_REQUIRED"),
    ("Echo", "users/alice", EchoMessage(name="projects/acme"), errors.InvalidArgument, "INVALID_FIELD"),
    ("Anyone", None, EchoMessage(), errors.InvalidArgument, "INVALID_FIELD"),
]


@pytest.mark.parametrize(("method", "caller", "request_", "error", "reason"), REFUSALS)
async def test_a_call_is_refused(
    mesh: Mesh, method: str, caller: str | None, request_: Any, error: type[errors.LeptonError], reason: str
) -> None:
    async with mesh.client(caller) as channel:
        with pytest.raises(error) as caught:
            await getattr(EchoStub(channel), method)(request_)
    assert caught.value.reason == reason
    assert caught.value.domain == "trainer.lepton"


@pytest.mark.parametrize(
    ("method", "caller"),
    [
        ("Echo", "users/alice"),
        ("Echo", "users/carol"),
        ("Echo", "users/root"),
        ("Change", "users/alice"),
        ("Anyone", None),
        ("SignedIn", "users/nobody"),
    ],
)
async def test_a_call_is_let_in(mesh: Mesh, method: str, caller: str | None) -> None:
    async with mesh.client(caller) as channel:
        assert await getattr(EchoStub(channel), method)(ACME) == ACME


async def test_a_foreign_resource_looks_exactly_like_an_absent_one(mesh: Mesh) -> None:
    class Absent(Echo):
        async def Echo(self, request: Any, context: Any) -> Any:
            from lepton.names import not_found

            raise not_found(request.name)

    async with serving((add_echo_to_server, Absent())) as other:
        foreign, absent = [], []
        for subject, kept in (("users/bob", foreign), ("users/alice", absent)):
            async with other.client(subject) as channel:
                call = EchoStub(channel).Echo(ACME)
                with pytest.raises(errors.NotFound):
                    await call
                kept.append((await call.details(), dict(await call.trailing_metadata())[DETAILS_KEY]))
    assert foreign == absent


async def test_the_fields_of_an_invalid_request_are_named(alice: EchoStub) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await alice.Echo(EchoMessage(name="projects/acme", count=-1, children=[EchoMessage(text="x"), EchoMessage()]))
    assert set(caught.value.fields) == {"text", "count", "children[1].text"}
    assert caught.value.fields["text"] == "is required"


async def test_output_only_fields_of_a_request_are_ignored(alice: EchoStub) -> None:
    nested = EchoMessage(text="inner", state="FORGED")
    answer = await alice.Echo(EchoMessage(name="projects/acme", text="x", state="FORGED", inner=nested))
    assert (answer.state, answer.inner.state, answer.inner.text) == ("", "", "inner")


@pytest.mark.parametrize("method", ["Echo", "Anyone", "Watch", "Collect", "Chat"])
async def test_a_malformed_message_is_an_invalid_argument(mesh: Mesh, method: str) -> None:
    async with mesh.client("users/root") as channel:
        garbage = b"\x0a\xff\xff\xff\xff\x0fgarbage"
        kinds = {"Watch": channel.unary_stream, "Collect": channel.stream_unary, "Chat": channel.stream_stream}
        call = kinds.get(method, channel.unary_unary)(f"/{SERVICE}/{method}")
        streams = method in ("Collect", "Chat")
        running = call(iter([garbage]) if streams else garbage, timeout=5)
        with pytest.raises(errors.InvalidArgument) as caught:
            await (running.read() if method in ("Watch", "Chat") else running)
    assert caught.value.reason == "MALFORMED_MESSAGE"


async def test_an_oversize_message_is_refused(mesh: Mesh) -> None:
    big = EchoMessage(name="projects/acme", text="x" * (5 << 20))
    async with mesh.client("users/alice", extra_options=[("grpc.max_send_message_length", 32 << 20)]) as channel:
        with pytest.raises(errors.ResourceExhausted):
            await EchoStub(channel).Echo(big)


async def test_a_peer_must_set_a_deadline(mesh: Mesh) -> None:
    async with mesh.peer("service/scheduler") as peers:
        below = peers.channel("trainer").below
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await EchoStub(below).ForPeers(EchoMessage(text="x"))
        assert errors.from_rpc_error(caught.value).reason == "DEADLINE_REQUIRED"
        assert await EchoStub(below).ForPeers(EchoMessage(text="x"), timeout=5) == EchoMessage(text="x")


async def test_a_client_without_a_deadline_is_served(mesh: Mesh) -> None:
    async with mesh.client("users/alice") as channel:
        call = EchoStub(channel.below).Echo(
            ACME, metadata=(("authorization", "Bearer " + mesh.signer.token("users/alice")),)
        )
        assert await call == ACME


async def test_peers_are_let_in_by_name_only(mesh: Mesh) -> None:
    async with mesh.peer("service/scheduler") as peers:
        stub = EchoStub(peers.channel("trainer"))
        assert await stub.ForPeers(ACME) == ACME
        assert await stub.Echo(FOREIGN) == FOREIGN  # the rule names a permission or this peer
        with pytest.raises(errors.Unauthenticated, match="TOKEN_MISSING"):
            await stub.Change(ACME)
    async with mesh.peer("agent/n7") as peers:
        assert await EchoStub(peers.channel("trainer")).ForPeers(ACME) == ACME
    async with mesh.peer("service/inference") as peers:
        with pytest.raises(errors.PermissionDenied, match="PEER_DENIED"):
            await EchoStub(peers.channel("trainer")).ForPeers(ACME)


ERRORS = [kind("JOB_BROKEN", "why", job="projects/acme/jobs/one") for kind in errors.CLASSES.values()] + [
    errors.InvalidArgument("INVALID_FIELD", fields={"job.epochs": "must be positive"}),
    errors.FailedPrecondition("JOB_OVER", "the job is over", fields={"job": "is over"}, job="one"),
    errors.ResourceExhausted("QUOTA_FULL", "full", retry_after_s=2.5, fields={"gpus": "8 of 8"}),
    errors.Unavailable("LEADER_CHANGING", "soon", retry_after_s=0.25),
]


@pytest.mark.parametrize("raised", ERRORS, ids=lambda error: f"{type(error).__name__}-{error.reason}")
async def test_every_error_arrives_as_it_was_raised(raised: errors.LeptonError) -> None:
    class Failing(Echo):
        async def Echo(self, request: Any, context: Any) -> Any:
            raise raised

    async with serving((add_echo_to_server, Failing())) as mesh, mesh.client() as channel:
        call = EchoStub(channel).Echo(ACME, wait_for_ready=True)
        with pytest.raises(type(raised)) as caught:
            await call
        details = dict(await call.trailing_metadata())[DETAILS_KEY]
    arrived = caught.value
    assert (arrived.reason, arrived.message, arrived.metadata) == (raised.reason, raised.message, raised.metadata)
    assert (arrived.fields, arrived.retry_after_s) == (raised.fields, raised.retry_after_s)
    infos = [each for each in status_pb2.Status.FromString(details).details if each.Is(_INFO)]
    assert len(infos) == 1


_INFO: Any = error_details_pb2.ErrorInfo.DESCRIPTOR

MAPPED = [
    (kv.Unavailable("etcd away"), errors.Unavailable, "STORE_UNAVAILABLE"),
    (kv.OutcomeUnknown("lost"), errors.Unavailable, "OUTCOME_UNKNOWN"),
    (TimeoutError(), errors.DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (KeyError("the secret password"), errors.Internal, "INTERNAL"),
]


@pytest.mark.parametrize(("raised", "error", "reason"), MAPPED, ids=lambda value: repr(value)[:40])
async def test_other_exceptions_are_mapped_and_bugs_tell_nothing(
    raised: Exception, error: type[errors.LeptonError], reason: str
) -> None:
    class Failing(Echo):
        async def Echo(self, request: Any, context: Any) -> Any:
            raise raised

    async with serving((add_echo_to_server, Failing())) as mesh, mesh.client() as channel:
        stub = EchoStub(channel)
        metadata = (("x-request-id", "r-1"),)
        with pytest.raises(error) as caught:
            await stub.Echo(ACME, metadata=metadata)
    assert caught.value.reason == reason
    assert "secret" not in str(caught.value)
    if reason == "INTERNAL":
        assert caught.value.metadata["request_id"] == "r-1"


async def test_the_error_of_a_peer_is_not_passed_on_as_our_own(mesh: Mesh) -> None:
    class Forwarding(Echo):
        async def Echo(self, request: Any, context: Any) -> Any:
            async with mesh.client("users/nobody") as channel:
                return await EchoStub(channel).Echo(request)

    async with serving((add_echo_to_server, Forwarding())) as outer, outer.client() as channel:
        with pytest.raises(errors.Internal):
            await EchoStub(channel).Echo(ACME)


async def test_a_caller_is_limited_alone() -> None:
    async with serving((add_echo_to_server, Echo()), rate_per_s=0.1, burst=3.0) as mesh:
        async with mesh.client("users/alice") as channel:
            stub = EchoStub(channel)
            for _ in range(3):
                await stub.Echo(ACME)
            with pytest.raises(errors.ResourceExhausted) as caught:
                await stub.Echo(ACME)
            assert caught.value.reason == "RATE_LIMITED"
            assert caught.value.retry_after_s == pytest.approx(10, abs=1)
        async with mesh.client("users/carol") as channel:
            assert await EchoStub(channel).Echo(ACME) == ACME


async def test_a_call_that_outlives_its_deadline_is_cancelled() -> None:
    ended = asyncio.Event()

    class Slow(Echo):
        async def Echo(self, request: Any, context: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    async with serving((add_echo_to_server, Slow())) as mesh, mesh.client() as channel:
        with pytest.raises(errors.DeadlineExceeded):
            await EchoStub(channel).Echo(ACME, timeout=0.2)
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_deadline_reaches_the_next_service() -> None:
    seen: list[float | None] = []

    class Timed(Echo):
        async def Echo(self, request: Any, context: Any) -> Any:
            seen.append(context.time_remaining())
            return request

    async with serving((add_echo_to_server, Timed()), name="scheduler") as below, below.peer("service/scheduler") as on:

        class Forwarding(Echo):
            async def Echo(self, request: Any, context: Any) -> Any:
                return await EchoStub(on.channel("scheduler")).Echo(request)

        async with serving((add_echo_to_server, Forwarding())) as outer, outer.client() as channel:
            await EchoStub(channel).Echo(ACME, timeout=20)
    assert seen[0] is not None
    assert 0 < seen[0] <= 20
