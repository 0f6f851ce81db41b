"""A quarantined version is taken out of the gateway while its replicas run, and comes back when it is released."""

from pathlib import Path

from chassis.kv import Delete
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.pipeline_pb2 import ModelStep, Pipeline, PipelineStep
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import DeploymentName, DeploymentRevisionName, VersionName
from services.inference.references import versions_of, without_quarantined
from services.inference.store import deployment_key, quarantined_key, revision_key
from tests.harness.memory_kv import MemoryKV
from tests.harness.wait import until
from tests.inference.test_gateway_files import BOOKMARK, CHANGED, Gate, deployment, revision, workload

VERSION = "projects/acme/models/m/versions/1"
OTHER = "projects/acme/models/other/versions/7"


def serving(name: str, version: str) -> tuple[Deployment, DeploymentRevision]:
    made = deployment(name)
    made.model_version = version
    first = revision(made)
    first.model_version = version
    return made, first


async def store(gate: Gate, made: Deployment, first: DeploymentRevision) -> None:
    await gate.kv.put(deployment_key(DeploymentName.parse(made.name)), made.SerializeToString())
    await gate.kv.put(revision_key(DeploymentRevisionName.parse(first.name)), first.SerializeToString())


async def test_its_calls_stop_and_come_back_and_nobody_elses_do(tmp_path: Path) -> None:
    async with MemoryKV() as kv:
        gate = Gate(tmp_path / "gateway", kv)
        tainted, clean = serving("tainted", VERSION), serving("clean", OTHER)
        for made in (tainted, clean):
            await store(gate, *made)
        mark = quarantined_key(VersionName.parse(VERSION))
        async with gate.service() as files:
            files.use_tokens(gate.tokens())
            for made, _ in (tainted, clean):
                gate.feed.tell(CHANGED, workload(made, 0))
            gate.feed.tell(BOOKMARK)
            both = {"acme.tainted": [9000], "acme.clean": [9000]}
            await until(lambda: gate.routed() == both, 30.0)
            await kv.put(mark, b"")
            await until(lambda: gate.routed() == {"acme.clean": [9000]}, 30.0)
            await kv.txn([], [Delete(mark)])
            await until(lambda: gate.routed() == both, 30.0)


async def test_a_service_that_starts_routes_none_of_it_at_any_moment(tmp_path: Path) -> None:
    async with MemoryKV() as kv:
        gate = Gate(tmp_path / "gateway", kv)
        tainted, clean = serving("tainted", VERSION), serving("clean", OTHER)
        for made in (tainted, clean):
            await store(gate, *made)
        await kv.put(quarantined_key(VersionName.parse(VERSION)), b"")
        async with gate.service() as files:
            files.use_tokens(gate.tokens())
            for made, _ in (tainted, clean):
                gate.feed.tell(CHANGED, workload(made, 0))
            gate.feed.tell(BOOKMARK)
            await until(lambda: gate.routed(), 30.0)
            assert gate.routed() == {"acme.clean": [9000]}


def test_a_pipeline_is_out_when_one_of_its_steps_is() -> None:
    steps = [PipelineStep(name="a", model=ModelStep()), PipelineStep(name="b", model=ModelStep(model_version=OTHER))]
    piped = DeploymentRevision(name="r", model_version=VERSION, pipeline=Pipeline(steps=steps))
    assert versions_of(piped) == {VERSION, OTHER}
    assert without_quarantined({"r": piped}, {OTHER}) == {}
    assert without_quarantined({"r": piped}, {"projects/acme/models/third/versions/1"}) == {"r": piped}
