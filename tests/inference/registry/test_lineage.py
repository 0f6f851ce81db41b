"""What a dataset has touched is found through every generation, kept out of service, and let back."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.errors import FailedPrecondition, InvalidArgument, NotFound
from lepton.inference.v1 import inference_service_pb2 as service_pb
from lepton.inference.v1 import registry_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Lineage, ModelVersion
from lepton.models.package import ModelPackage
from lepton.names import ModelName
from services.inference.lineage import ancestry, graph, touched
from services.inference.model_versions import ModelVersions
from services.inference.quarantine import Quarantines
from tests.inference.conftest import PROJECT, World, deployment_request

BAD = "sha256:" + "b" * 64
GOOD = "sha256:" + "a" * 64


@pytest.fixture
def quarantines(world: World) -> Quarantines:
    return Quarantines(world.kv, world.registry)


async def registered(world: World, model: str, **lineage: Any) -> ModelVersion:
    """A version whose package says where it comes from."""
    package = ModelPackage.parse(await world.artifacts.read("acme", await world.package()))
    name = ModelName("acme", model)
    try:
        await world.registry.get_model(str(name))
    except NotFound:
        await world.model(model)
    stated = ModelPackage(
        architecture=package.architecture,
        files=package.files,
        signature=package.signature,
        metrics=package.metrics,
        lineage={"marker": f"{model}-{len(lineage)}-{sorted(lineage.items())}", **lineage},
    )
    return await world.registry.register(name, stated, request_id="")


async def family(world: World) -> dict[str, ModelVersion]:
    """Touched: trained on it, on from it, distilled, optimised, twice removed, by a second dataset; and one not."""
    made = {"trained": await registered(world, "trained", dataset=BAD, job=f"{PROJECT}/jobs/j")}
    made["optimised"] = await registered(world, "optimised", parent=made["trained"].name)
    made["student"] = await registered(world, "student", teacher=made["optimised"].name, dataset=GOOD)
    made["tuned"] = await registered(world, "tuned", initial_model=made["student"].package)
    made["calibrated"] = await registered(world, "calibrated", dataset=GOOD, datasets=(BAD,))
    made["clean"] = await registered(world, "clean", dataset=GOOD)
    return made


async def taint(quarantines: Quarantines, source: str) -> pb.Taint:
    return await quarantines.analyze(pb.AnalyzeTaintRequest(parent=PROJECT, source=source))


def names(taint_: pb.Taint) -> set[str]:
    return {version.name.split("/")[3] for version in taint_.versions}


async def test_a_dataset_is_followed_through_every_generation(world: World, quarantines: Quarantines) -> None:
    made = await family(world)
    assert names(await taint(quarantines, BAD)) == {"trained", "optimised", "student", "tuned", "calibrated"}
    assert names(await taint(quarantines, GOOD)) == {"student", "tuned", "calibrated", "clean"}
    assert names(await taint(quarantines, f"{PROJECT}/jobs/j")) == {"trained", "optimised", "student", "tuned"}
    assert names(await taint(quarantines, made["student"].name)) == {"student", "tuned"}
    assert names(await taint(quarantines, f"{PROJECT}/artifacts/{'b' * 64}")) == names(await taint(quarantines, BAD))
    assert not (await taint(quarantines, "sha256:" + "0" * 64)).versions
    for wrong in ("bbbb", "projects/other/jobs/j", ""):
        with pytest.raises(InvalidArgument):
            await taint(quarantines, wrong)


async def test_it_is_followed_though_what_lay_between_was_deleted(world: World, quarantines: Quarantines) -> None:
    made = await family(world)
    changes = ModelVersions(world.kv, world.registry)
    for name in ("trained", "optimised"):
        await changes.delete(pb.DeleteModelVersionRequest(name=made[name].name))
    assert names(await taint(quarantines, BAD)) == {"student", "tuned", "calibrated"}
    found = await quarantines.lineage(pb.GetModelLineageRequest(name=made["student"].name))
    assert {node.name for node in found.nodes if node.deleted} == {made["optimised"].name}


async def test_an_unregistered_package_passes_its_lineage_on(world: World, quarantines: Quarantines) -> None:
    made = await registered(world, "never", dataset=BAD)
    await world.registry.delete_model(service_pb.DeleteModelRequest(name=f"{PROJECT}/models/never"))
    await registered(world, "tuned", initial_model=made.package)
    assert names(await taint(quarantines, BAD)) == {"tuned"}


async def test_the_graph_shows_what_is_above_and_below(world: World, quarantines: Quarantines) -> None:
    made = await family(world)
    await world.served.create(deployment_request(made["student"].name))
    found = await quarantines.lineage(pb.GetModelLineageRequest(name=f"{PROJECT}/models/student/versions/latest"))
    edges = {(edge.source, edge.relation, edge.target) for edge in found.edges}
    assert (BAD, "dataset", made["trained"].name) in edges
    assert (made["trained"].name, "parent", made["optimised"].name) in edges
    assert (made["optimised"].name, "teacher", made["student"].name) in edges
    assert (made["student"].name, "deployment", f"{PROJECT}/deployments/digits") in edges
    assert made["clean"].name not in {node.name for node in found.nodes}


async def test_a_parent_must_be_there_and_of_the_same_project(world: World) -> None:
    for parent in (f"{PROJECT}/models/nobody/versions/1", "projects/other/models/m/versions/1", "nonsense"):
        with pytest.raises(InvalidArgument) as refused:
            await registered(world, "m", parent=parent)
        assert refused.value.reason == "PACKAGE_INVALID"


async def test_what_is_quarantined_is_not_deployed_until_it_is_released(world: World, quarantines: Quarantines) -> None:
    made = await family(world)
    done = await quarantines.quarantine(pb.QuarantineModelsRequest(parent=PROJECT, source=BAD, reason="labels swapped"))
    assert names(done) == {"trained", "optimised", "student", "tuned", "calibrated"}
    assert all(version.quarantine for version in done.versions)
    assert done.quarantine.reason == "labels swapped"
    for name in ("trained", "tuned"):
        assert await world.registry.is_quarantined(made[name].name)
        with pytest.raises(FailedPrecondition) as refused:
            await world.served.create(deployment_request(made[name].name, f"d-{name}"))
        assert refused.value.reason == "VERSION_QUARANTINED"
        assert "labels swapped" in refused.value.metadata["why"]
    changes = ModelVersions(world.kv, world.registry)
    with pytest.raises(FailedPrecondition, match="VERSION_QUARANTINED"):
        await changes.transition(
            pb.TransitionModelVersionStageRequest(name=made["tuned"].name, stage=ModelVersion.PRODUCTION)
        )
    await world.served.create(deployment_request(made["clean"].name, "clean"))  # the negative control
    released = await quarantines.release(pb.ReleaseModelsRequest(parent=PROJECT, source=BAD))
    assert not any(version.quarantine for version in released.versions)
    assert not released.HasField("quarantine")
    assert not await world.registry.is_quarantined(made["tuned"].name)
    await world.served.create(deployment_request(made["tuned"].name, "tuned"))
    with pytest.raises(NotFound, match="QUARANTINE_NOT_FOUND"):
        await quarantines.release(pb.ReleaseModelsRequest(parent=PROJECT, source=BAD))


async def test_a_running_deployment_is_not_moved_to_a_quarantined_version(
    world: World, quarantines: Quarantines
) -> None:
    made = await family(world)
    deployment = await world.served.create(deployment_request(made["clean"].name))
    await quarantines.quarantine(pb.QuarantineModelsRequest(parent=PROJECT, source=BAD))
    wanted = Deployment(name=deployment.name, model_version=made["tuned"].name)
    with pytest.raises(FailedPrecondition, match="VERSION_QUARANTINED"):
        await world.served.update(service_pb.UpdateDeploymentRequest(deployment=wanted))


async def test_what_is_registered_later_is_quarantined_from_birth(world: World, quarantines: Quarantines) -> None:
    made = await registered(world, "trained", dataset=BAD)
    await quarantines.quarantine(pb.QuarantineModelsRequest(parent=PROJECT, source=BAD))
    later = await registered(world, "later", parent=made.name)
    assert [cause.source for cause in later.quarantine] == [BAD]
    assert await world.registry.is_quarantined(later.name)
    assert not (await registered(world, "clean", dataset=GOOD)).quarantine
    await quarantines.release(pb.ReleaseModelsRequest(parent=PROJECT, source=BAD))
    assert not await world.registry.is_quarantined(later.name)


async def test_two_causes_are_released_one_by_one(world: World, quarantines: Quarantines) -> None:
    made = await family(world)
    for source in (BAD, GOOD, BAD):  # a repeat changes nothing
        await quarantines.quarantine(pb.QuarantineModelsRequest(parent=PROJECT, source=source))
    version = await world.registry.get_version(made["student"].name)
    assert sorted(cause.source for cause in version.quarantine) == [GOOD, BAD]
    await quarantines.release(pb.ReleaseModelsRequest(parent=PROJECT, source=BAD))
    assert await world.registry.is_quarantined(made["student"].name)
    assert not await world.registry.is_quarantined(made["trained"].name)
    await quarantines.release(pb.ReleaseModelsRequest(parent=PROJECT, source=GOOD))
    assert not (await world.kv.list("/lepton/inference/quarantined/")).entries


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_ancestry_is_reachability(data: st.DataObject) -> None:
    """Against a walk of the whole graph, over random families."""
    made: list[ModelVersion] = []
    parents: dict[str, set[str]] = {}
    for number in range(data.draw(st.integers(1, 12))):
        above = data.draw(st.lists(st.sampled_from(made), max_size=2, unique_by=lambda each: each.name)) if made else []
        dataset = data.draw(st.sampled_from(["", "sha256:1", "sha256:2", "sha256:3"]))
        lineage = Lineage(dataset=dataset)
        for relation, version in zip(("parent", "teacher"), above, strict=False):
            setattr(lineage, relation, version.name)
        lineage.ancestry.extend(ancestry(lineage, above))
        made.append(ModelVersion(name=f"projects/p/models/m/versions/{number + 1}", lineage=lineage))
        parents[made[-1].name] = {version.name for version in above} | ({dataset} - {""})

    def goes_back_to(name: str) -> set[str]:
        return set().union(*({each} | goes_back_to(each) for each in parents.get(name, ())))

    for source in ("sha256:1", "sha256:2", *(version.name for version in made)):
        wanted = {version.name for version in made if version.name == source or source in goes_back_to(version.name)}
        assert {version.name for version in touched(made, source)} == wanted
    found = graph(made[-1], made, {})
    expected = {made[-1].name} | goes_back_to(made[-1].name)
    assert {node.name for node in found.nodes} == expected


def test_a_graph_names_deployments_by_what_they_serve() -> None:
    version = ModelVersion(name="projects/p/models/m/versions/1")
    served: Mapping[str, set[str]] = {"projects/p/deployments/d": {version.name}, "projects/p/deployments/e": {"other"}}
    assert [(edge.source, edge.target) for edge in graph(version, [version], served).edges] == [
        (version.name, "projects/p/deployments/d")
    ]
