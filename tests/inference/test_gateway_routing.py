"""Where the gateway sends a call: by weight, by header, to a shadow, to a holder; and what the answer tells of it."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from services.inference.envoy import Route, Routes, Shadow, Target
from tests.harness.gateway_caller import Caller, channel
from tests.harness.named_replica import NamedReplica, named_replica
from tests.harness.serving import RunningGateway, gateway
from tests.harness.wait import until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]
MODEL = "demo.digits"
LINEAGE = (("lepton-model", "projects/demo/models/digits/versions/1"), ("lepton-model-version", "sha256:0011"))


@dataclass
class Scene:
    """A gateway, two revisions and somebody who holds calls."""

    front: RunningGateway
    one: NamedReplica
    two: NamedReplica
    holder: NamedReplica
    ada: Caller

    async def route(self, *weights: int, shadow: Shadow | None = None, lineage: bool = False) -> None:
        replicas = (self.one, self.two)
        targets = tuple(
            Target(
                revision=number,
                endpoints=(replica.endpoint,),
                weight=weight,
                lineage=LINEAGE if lineage else (),
            )
            for number, (replica, weight) in enumerate(zip(replicas, weights, strict=False), 1)
        )
        await self.use(Route(model=MODEL, targets=targets, shadow=shadow))

    async def use(self, *routes: Route) -> None:
        """Routes, and waits until calls follow: the workers learn of it a moment after the main thread."""
        await self.front.route(Routes(routes=routes))
        assert await self.front.admin.rejected() == frozenset()

    async def answers(self, count: int, *headers: tuple[str, str]) -> Counter[str]:
        return Counter([(await self.ada.infer(MODEL, *headers)).message.id for _ in range(count)])

    async def answered_by(self, *expected: str) -> None:
        """Waits until exactly these answer."""

        async def is_so() -> bool:
            return set(await self.answers(12)) == set(expected)

        await until(is_so)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as exits:
        front = await exits.enter_async_context(gateway(tmp_path_factory.mktemp("routing") / "envoy"))
        replicas = [await exits.enter_async_context(named_replica(name)) for name in ("one", "two", "holder")]
        connection = await exits.enter_async_context(channel(front))
        yield Scene(front, *replicas, Caller.of(connection, front.authority.token("demo")))


async def test_calls_divide_by_weight_and_a_header_chooses_the_revision(scene: Scene) -> None:
    await scene.route(90, 10)
    await scene.answered_by("one", "two")
    found = await scene.answers(400)
    assert 10 <= found["two"] <= 90, "10 % of 400, within five standard deviations and more"
    assert await scene.answers(20, ("lepton-revision", "2")) == {"two": 20}
    assert await scene.answers(20, ("lepton-revision", "1")) == {"one": 20}


async def test_a_revision_of_weight_nothing_answers_those_who_name_it(scene: Scene) -> None:
    await scene.route(100, 0)
    await scene.answered_by("one")
    assert await scene.answers(50) == {"one": 50}
    assert await scene.answers(20, ("lepton-revision", "2")) == {"two": 20}
    assert await scene.ada.refused(MODEL, ("lepton-revision", "3")) == ("NOT_FOUND", "REVISION_NOT_SERVED")


async def test_weights_move_under_load_without_an_error(scene: Scene) -> None:
    for weights in ((100, 0), (50, 50), (0, 100), (50, 50), (100, 0)):
        await scene.route(*weights)
        expected = [name for name, weight in zip(("one", "two"), weights, strict=True) if weight]
        await scene.answered_by(*expected)  # every call on the way had an answer


async def test_a_revision_without_replicas_gets_no_share(scene: Scene) -> None:
    empty = Target(revision=2, endpoints=(), weight=900)
    await scene.use(Route(model=MODEL, targets=(Target(revision=1, endpoints=(scene.one.endpoint,)), empty)))
    await scene.answered_by("one")
    assert await scene.answers(50) == {"one": 50}


async def test_a_shadow_gets_copies_and_nobody_hears_its_answers(scene: Scene) -> None:
    await scene.route(100, 0, shadow=Shadow(revision=2, share=1.0))

    async def is_copied() -> bool:
        await scene.answers(1, ("mark", "early"))
        return scene.two.marked["early"] > 0

    await until(is_copied)
    assert await scene.answers(30, ("mark", "copied")) == {"one": 30}
    await until(lambda: scene.two.marked["copied"] == 30)
    scene.two.fails = grpc.StatusCode.INTERNAL
    try:
        assert await scene.answers(10) == {"one": 10}
    finally:
        scene.two.fails = None
    await scene.route(100, 0)

    async def is_left_alone() -> bool:
        before = scene.two.calls[MODEL]
        await scene.answers(5)
        return scene.two.calls[MODEL] == before

    await until(is_left_alone)


async def test_the_holder_answers_while_there_is_no_replica(scene: Scene) -> None:
    held = Route(model=MODEL, targets=(Target(revision=1, endpoints=()),), holder=scene.holder.endpoint)
    await scene.use(held)
    await scene.answered_by("holder")
    target = Target(revision=1, endpoints=(scene.one.endpoint,))
    await scene.use(Route(model=MODEL, targets=(target,), holder=scene.holder.endpoint))
    await scene.answered_by("one")
    assert await scene.answers(30) == {"one": 30}, "not one of them to the holder"
    assert (await scene.front.admin.healthy())["demo.digits@r1"] == {scene.one.endpoint}


async def test_a_model_without_revisions_has_its_calls_held(scene: Scene) -> None:
    await scene.use(Route(model=MODEL, targets=(), holder=scene.holder.endpoint))
    await scene.answered_by("holder")


async def test_the_holder_takes_over_when_the_last_replica_dies(scene: Scene) -> None:
    async with named_replica("mortal") as mortal:
        target = Target(revision=1, endpoints=(mortal.endpoint,))
        await scene.use(Route(model=MODEL, targets=(target,), holder=scene.holder.endpoint))
        await scene.answered_by("mortal")

    async def is_held() -> bool:
        return (await scene.ada.refused(MODEL)) == ("OK", "") and set(await scene.answers(3)) == {"holder"}

    await until(is_held, 20)


async def test_without_replica_and_holder_a_call_is_refused_with_the_reason(scene: Scene) -> None:
    await scene.use(Route(model=MODEL, targets=(Target(revision=1, endpoints=()),)))

    async def is_refused() -> bool:
        return await scene.ada.refused(MODEL) == ("UNAVAILABLE", "NO_REPLICA")

    await until(is_refused)


async def test_every_answer_tells_its_lineage_in_trailing_metadata(scene: Scene) -> None:
    await scene.route(100, 0, lineage=True)
    await scene.answered_by("one")

    async def told(*headers: tuple[str, str]) -> dict[str, str]:
        return {
            key: value
            for key, value in (await scene.ada.infer(MODEL, *headers)).trailing.items()
            if key.startswith("lepton-")
        }

    await until(lambda: _equal(told(), {**dict(LINEAGE), "lepton-revision": "1"}))
    assert await told(("lepton-revision", "2")) == {**dict(LINEAGE), "lepton-revision": "2"}
    scene.one.fails = grpc.StatusCode.INVALID_ARGUMENT
    try:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await scene.ada.infer(MODEL)
    finally:
        scene.one.fails = None
    assert dict(refused.value.trailing_metadata() or ())["lepton-revision"] == "1"


async def test_a_replica_is_told_nothing_that_it_does_not_need(scene: Scene) -> None:
    """Neither the caller's token nor their address, and no header of Envoy's own; the caller hears of none either."""
    await scene.route(100, 0)
    await scene.answered_by("one")
    answer = await scene.ada.infer(MODEL, ("mark", "mine"), ("x-request-id", "the caller's own"))
    told = scene.one.metadata
    assert {key for key in told if not key.startswith("grpc-")} == {
        "mark",
        "x-request-id",
        "x-forwarded-proto",
        "user-agent",
    }
    assert (told["mark"], told["x-request-id"]) == ("mine", "the caller's own")
    assert not [key for key in answer.trailing if key.startswith("x-envoy-")]


async def test_every_replica_tells_its_own_engine(scene: Scene) -> None:
    engines = {"one": "onnxruntime", "two": "tensorrt/tensorrt_10.13.3_h200_fp16_0011_0022"}
    endpoints = (scene.one.endpoint, scene.two.endpoint)

    async def told(*named: str) -> bool:
        found = [await scene.ada.infer(MODEL) for _ in range(12)]
        return {(each.message.id, each.trailing.get("lepton-engine", "")) for each in found} == {
            (name, named[index]) for index, name in enumerate(engines)
        }

    both = tuple(replace(each, engine=engine) for each, engine in zip(endpoints, engines.values(), strict=True))
    await scene.use(Route(model=MODEL, targets=(Target(revision=1, endpoints=both),)))
    await until(lambda: told(*engines.values()))
    await scene.use(Route(model=MODEL, targets=(Target(revision=1, endpoints=(endpoints[0], both[1])),)))
    await until(lambda: told("", engines["two"]))  # nothing is said of what nobody knows


async def test_the_holders_key_reaches_the_holder_alone(scene: Scene) -> None:
    forged = ("x-lepton-held", "mine demo.digits@r1")
    target = Target(revision=1, endpoints=(scene.one.endpoint,))
    await scene.use(Route(model=MODEL, targets=(target,), holder=scene.holder.endpoint))
    await scene.answered_by("one")
    await scene.ada.infer(MODEL, forged)
    assert "x-lepton-held" not in scene.one.metadata
    await scene.use(Route(model=MODEL, targets=(Target(revision=1, endpoints=()),), holder=scene.holder.endpoint))
    await scene.answered_by("holder")
    await scene.ada.infer(MODEL, forged)
    assert scene.holder.metadata["x-lepton-held"].endswith(" demo.digits@r1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in scene.front.gateway.directory.rglob("*.json")}
    assert set(modes.values()) == {0o600}, modes


async def test_a_decoupled_model_streams_through_with_its_lineage(scene: Scene) -> None:
    await scene.route(100, 0, lineage=True)
    await scene.answered_by("one")
    stream = scene.ada.stub.ModelStreamInfer(metadata=scene.ada.metadata, timeout=20)
    for count in (3, 1, 5):  # each waits for its answers: nothing is held back until the end of the stream
        await stream.write(service_pb2.ModelInferRequest(model_name=MODEL, id=str(count)))
        answers = [await stream.read() for _ in range(count)]
        assert [answer.infer_response.id for answer in answers] == ["one"] * count
    await stream.done_writing()
    assert await stream.code() is grpc.StatusCode.OK
    assert dict(await stream.trailing_metadata())["lepton-revision"] == "1"


async def test_a_header_names_the_model_and_has_to_agree_with_the_message(scene: Scene) -> None:
    other = Route(model="demo.faces", targets=(Target(revision=1, endpoints=(scene.two.endpoint,)),))
    await scene.use(Route(model=MODEL, targets=(Target(revision=1, endpoints=(scene.one.endpoint,)),)), other)
    await scene.answered_by("one")

    async def server(*headers: tuple[str, str]) -> str:
        request = service_pb2.ServerMetadataRequest()
        metadata = (*scene.ada.metadata, *headers)
        return str((await scene.ada.stub.ServerMetadata(request, metadata=metadata, timeout=5)).name)

    await until(lambda: _equal(server(("lepton-model", "demo.faces")), "two"))
    assert await server(("lepton-model", MODEL)) == "one"
    assert (await scene.ada.infer(MODEL, ("lepton-model", MODEL))).message.id == "one"
    refused = await scene.ada.refused(MODEL, ("lepton-model", "demo.faces"))
    assert refused == ("INVALID_ARGUMENT", "MODEL_NAMES_DIFFER")
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await server(("lepton-model", "other.faces"))
    assert denied.value.code() is grpc.StatusCode.NOT_FOUND


async def _equal(found: object, expected: object) -> bool:
    return (await found) == expected  # type: ignore[misc]
