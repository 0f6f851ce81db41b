"""Names of models: traversal, control characters, a megabyte of them, and ten thousand that nobody has deployed."""

import asyncio

import pytest
from tritonclient.grpc import service_pb2

from tests.inference.hostile.refusals import assert_clean
from tests.inference.hostile.world import GOOD, World, good_request

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="package")]
NAMES = {
    "parent folders": "../../../etc/passwd",
    "parents behind the project": "demo.../../../etc/passwd",
    "parents behind the model": f"{GOOD}/../../outside",
    "absolute": "/etc/passwd",
    "encoded": "demo.%2e%2e%2fdigits",
    "backslashes": "demo...\\..\\digits",
    "a zero byte": f"{GOOD}\0",
    "a zero byte within": "demo.dig\0its",
    "a line break": f"{GOOD}\r\nx-lepton-route: {GOOD}",
    "terminal codes": "demo.\x1b[2Jdigits",
    "another alphabet": "demo.digіts",
    "not normalised": "demo.digits\u0301",
    "right to left": "demo.\u202edigits",
    "a space": f"{GOOD} ",
    "upper case": GOOD.upper(),
    "only the project": "demo.",
    "only the model": ".digits",
    "no dot": "digits",
    "two dots": "demo..digits",
    "the stream's route": f"{GOOD}/stream",
    "the server's route": "*",
    "the cluster": f"{GOOD}@r1",
    "Lua": '"..os.execute("id").."',
    "300 characters": "demo." + "a" * 300,
    "a megabyte": "demo." + "a" * (1 << 20),
}
METHODS = {
    "ModelInfer": lambda name: good_request(name),
    "ModelReady": lambda name: service_pb2.ModelReadyRequest(name=name),
    "ModelMetadata": lambda name: service_pb2.ModelMetadataRequest(name=name),
    "ModelConfig": lambda name: service_pb2.ModelConfigRequest(name=name),
    "ModelStatistics": lambda name: service_pb2.ModelStatisticsRequest(name=name),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_a_name_that_is_none_is_refused_by_every_method(unharmed: World, name: str) -> None:
    for method, request in METHODS.items():
        seen = await unharmed.call(request(name).SerializeToString(), method=method)
        assert_clean(seen, "NOT_FOUND", "PERMISSION_DENIED")
        assert seen.reason in {"MODEL_NOT_SERVED", "PERMISSION_DENIED"}
        assert seen.text.isprintable()


async def test_a_name_that_is_no_text_is_refused(unharmed: World) -> None:
    for name in (b"demo.\xff\xfe", b"\xed\xa0\x80.digits", bytes(range(1, 128))):
        seen = await unharmed.call(b"\x0a" + bytes([len(name)]) + name)
        assert_clean(seen, "NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT")


async def test_of_two_names_in_one_message_the_one_that_is_checked_is_the_one_that_is_used(unharmed: World) -> None:
    """The last one counts, in protobuf; a gateway that checks the first would let a caller in anywhere."""
    good = good_request().SerializeToString()
    for other in ("other.digits", "demo.none"):
        name = service_pb2.ModelInferRequest(model_name=other).SerializeToString()
        assert_clean(await unharmed.call(good + name), "NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT")
        assert_clean(await unharmed.call(name + good), "OK", "NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT")


async def test_ten_thousand_names_cost_no_memory_and_reach_no_replica(unharmed: World) -> None:
    count, at_once = 10_000, 50
    envoy = unharmed.processes()[0]
    requests = [service_pb2.ModelReadyRequest(name=f"demo.bogus-{at}").SerializeToString() for at in range(count)]
    codes: set[str] = set()

    async def some(first: int) -> None:
        for at in range(first, count, at_once):
            codes.add((await unharmed.call(requests[at], method="ModelReady")).code)

    await some(count - at_once)  # what is allocated once is
    before = envoy.memory_info().rss
    await asyncio.gather(*(some(first) for first in range(at_once)))
    assert codes == {"NOT_FOUND"}
    assert envoy.memory_info().rss < before + (32 << 20)
