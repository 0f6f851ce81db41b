"""Headers that try to steer the gateway: routes, revisions, Envoy's own, huge ones, and tokens that are none."""

import json
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.harness.wait import until
from tests.inference.hostile.frames import Connection
from tests.inference.hostile.refusals import assert_clean
from tests.inference.hostile.world import GOOD, SERVICE, World, good_request

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]
GOOD_BYTES = good_request().SerializeToString()


@pytest.mark.parametrize("route", [GOOD, f"{GOOD}/stream", "*", "", "unrouted", f"{GOOD}@r1"])
async def test_a_forged_route_leads_nowhere(unharmed: World, route: str) -> None:
    forged = ("x-lepton-route", route)
    seen = await unharmed.call(good_request("demo.none").SerializeToString(), forged)
    assert (seen.code, seen.reason) == ("NOT_FOUND", "MODEL_NOT_SERVED")
    assert (await unharmed.call(good_request("other.none").SerializeToString(), forged)).code == "NOT_FOUND"
    assert (await unharmed.call(GOOD_BYTES, forged)).code == "OK"


@pytest.mark.parametrize("revision", ["99", "0", "-1", "../1", "1,99", "1 ", "r1", "9" * 5000, "*"])
async def test_a_revision_that_is_none_is_refused(unharmed: World, revision: str) -> None:
    assert_clean(await unharmed.call(GOOD_BYTES, ("lepton-revision", revision)), "NOT_FOUND", "OK")
    if revision.strip() != "1":
        assert (await unharmed.call(GOOD_BYTES, ("lepton-revision", revision))).reason == "REVISION_NOT_SERVED"


async def test_two_revisions_are_none(unharmed: World) -> None:
    twice = [("lepton-revision", "1"), ("lepton-revision", "99")]
    assert (await unharmed.call(GOOD_BYTES, *twice)).code == "NOT_FOUND"


@pytest.mark.parametrize("named", ["demo.other", "other.digits", "", "x" * 3000, f"{GOOD},{GOOD}"])
async def test_a_header_that_names_another_model_than_the_message_is_refused(unharmed: World, named: str) -> None:
    seen = await unharmed.call(GOOD_BYTES, ("lepton-model", named))
    assert_clean(seen, "INVALID_ARGUMENT")
    assert seen.reason == "MODEL_NAMES_DIFFER"


STEERING = {
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-expected-rq-timeout-ms": "1",
    "x-envoy-upstream-stream-duration-ms": "1",
    "x-envoy-upstream-alt-stat-name": "mine",
    "x-envoy-decorator-operation": "mine",
    "x-envoy-original-path": "/x",
    "x-envoy-internal": "true",
    "x-envoy-force-trace": "true",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-client-cert": "By=spiffe://lepton.local/service/auth",
    "x-lepton-policy-revision": "999999999",
    "lepton-model-version": "sha256:forged",
}


@pytest.mark.parametrize("name", STEERING)
async def test_envoys_own_headers_steer_nothing(unharmed: World, name: str) -> None:
    """A stream that takes a tenth of a second is answered to its end, whatever timeouts the caller forges."""
    metadata = (*unharmed.metadata, (name, STEERING[name]))
    stream = unharmed.channel.stream_stream(f"{SERVICE}ModelStreamInfer")(metadata=metadata, timeout=20)
    await stream.write(repeated(10, delay_ms=10).SerializeToString())
    await stream.done_writing()
    assert len([answer async for answer in stream]) == 10


def repeated(count: int, delay_ms: int) -> Any:
    request = service_pb2.ModelInferRequest(model_name="demo.repeat-int32")
    columns = {"IN": np.arange(count, dtype=np.int32), "DELAY": np.full(count, delay_ms, np.uint32)}
    for name, values in {**columns, "WAIT": np.zeros(1, np.uint32)}.items():
        request.inputs.add(name=name, datatype="INT32" if name == "IN" else "UINT32", shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    return request


async def test_a_caller_cannot_ask_for_retries(unharmed: World) -> None:
    """What the caller did wrong is tried once, as the access log says."""
    forged = {"x-envoy-retry-on": "5xx,retriable-status-codes,gateway-error", "x-envoy-max-retries": "100"}
    more = {"x-envoy-retry-grpc-on": "invalid-argument,internal", "x-envoy-hedge-on-per-try-timeout": "true"}
    request = good_request()
    request.inputs[0].name = "wrong"
    mark = "a" * 8 + "-retries-of-one-call"
    headers = ({**forged, **more, "user-agent": mark, "x-request-id": mark}).items()
    before = len(entries(unharmed))
    assert (await unharmed.call(request.SerializeToString(), *headers)).code == "INVALID_ARGUMENT"

    def refused() -> list[Any]:
        return [one for one in entries(unharmed)[before:] if one["grpc_status"] == "INVALID_ARGUMENT"]

    await until(refused, 30)
    assert {int(one["attempts"]) for one in refused()} <= {0, 1}


def entries(world: World) -> list[Any]:
    log = world.front.gateway.access_log
    return [json.loads(line) for line in log.read_text(errors="replace").splitlines()] if log.exists() else []


@pytest.mark.parametrize("size", [6_000, 50_000])
async def test_large_metadata_is_answered_or_refused(unharmed: World, size: int) -> None:
    assert_clean(await unharmed.call(GOOD_BYTES, ("x-large", "x" * size)), "OK", "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize(
    "headers",
    [[("x-large", "x" * 200_000)], [(f"x-{at}", "y") for at in range(2000)], [("x-bin", b"\0" * 150_000)]],
    ids=["one of 200 kB", "two thousand", "binary"],
)
async def test_metadata_beyond_all_measure_ends_that_call_only(unharmed: World, headers: list[tuple[str, Any]]) -> None:
    """HTTP/2 has no better answer than to reset the stream or to close the connection; each client has its own."""
    credentials = unharmed.trusted()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_metadata_size", 1 << 22)]
    async with grpc.aio.secure_channel(f"localhost:{unharmed.front.port}", credentials, options=options) as channel:
        infer = channel.unary_unary(f"{SERVICE}ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await infer(GOOD_BYTES, metadata=(*unharmed.metadata, *headers), timeout=20)
    assert refused.value.code().name in {"UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN"}


TOKENS = {
    "none": [],
    "not a bearer's": [("authorization", "Basic YTpi")],
    "empty": [("authorization", "Bearer ")],
    "no token": [("authorization", "Bearer ../../etc/passwd")],
    "without a signature": [("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJwcm9qZWN0cyI6WyIqIl19.")],
    "of 40 kB": [("authorization", "Bearer " + "x." * 20_000)],
    "of dots": [("authorization", "Bearer " + "." * 3000)],
}


@pytest.mark.parametrize("headers", TOKENS.values(), ids=TOKENS)
async def test_what_is_no_token_is_unauthenticated(unharmed: World, headers: list[tuple[str, str]]) -> None:
    assert_clean(await unharmed.call(GOOD_BYTES, *headers, signed_in=False), "UNAUTHENTICATED")


async def test_a_second_token_does_not_help_the_first(unharmed: World) -> None:
    assert_clean(await unharmed.call(GOOD_BYTES, ("authorization", "Bearer x")), "UNAUTHENTICATED", "OK")
    forged = ("authorization", unharmed.metadata[0][1])
    seen = await unharmed.call(GOOD_BYTES, ("authorization", "Bearer x"), forged, signed_in=False)
    assert_clean(seen, "UNAUTHENTICATED")


METHODS = ["Nope", "RepositoryIndex", "RepositoryModelLoad", "LogSettings", "TraceSetting", "x" * 5000, "", "..", "a/b"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[:20] or "empty")
async def test_a_method_that_is_not_offered_is_refused(unharmed: World, method: str) -> None:
    seen = await unharmed.call(GOOD_BYTES, method=method)
    assert_clean(seen, "PERMISSION_DENIED", "UNIMPLEMENTED", "INVALID_ARGUMENT")


@pytest.mark.parametrize("timeout", ["0S", "1n", "99999999H", "abc", "-1S", "123456789S", "", "1"])
async def test_a_deadline_that_is_none_harms_nobody(unharmed: World, timeout: str) -> None:
    body = b"\0" + len(GOOD_BYTES).to_bytes(4) + GOOD_BYTES
    async with Connection.open(unharmed) as raw:
        assert await raw.unary("ModelInfer", body, ("grpc-timeout", timeout)) in {"0", "1", "3", "4", "13", "reset"}
