"""The pipeline is part of a deployment's template: it is checked and made explicit, and a change makes a revision."""

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict

from lepton.errors import InvalidArgument
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.pipeline_pb2 import Pipeline
from lepton.models import Signature, Tensor
from tests.inference.conftest import World, deployment_request

SIGNATURE = Signature(
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
    outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 2)),),
)


def pipeline(cost: float = 5.0, **decision: Any) -> Pipeline:
    matrix = {"states": ["good", "bad"], "actions": ["grant", "refuse"], "costs": [0, 1, cost, 0], **decision}
    return ParseDict({"steps": [{"name": "model", "model": {}}, {"name": "decide", "decision": matrix}]}, Pipeline())


async def deployed(world: World) -> Deployment:
    version = await world.version(await world.model(), signature=SIGNATURE)
    return await world.served.create(deployment_request(version.name, "loans", pipeline=pipeline()))


async def changed(world: World, deployment: Deployment, **fields: Any) -> Deployment:
    wanted = Deployment(name=deployment.name, **fields)
    request = pb.UpdateDeploymentRequest(deployment=wanted, update_mask=FieldMask(paths=list(fields)))
    return await world.served.update(request)


async def test_what_is_kept_says_everything(world: World) -> None:
    deployment = await deployed(world)
    kept = deployment.pipeline
    assert [each.name for each in kept.inputs] == ["x"]
    assert dict(kept.steps[1].inputs) == {"x": "logits"}
    assert list(kept.outputs)[:3] == ["action", "action_name", "expected_cost"]
    assert kept.steps[0].model.model_version == ""  # the deployment's own, whichever that will be


async def test_another_cost_makes_a_revision_and_the_same_one_does_not(world: World) -> None:
    deployment = await deployed(world)
    assert (await changed(world, deployment, pipeline=pipeline())).latest_revision == 1
    assert (await changed(world, deployment, replicas=3)).latest_revision == 1
    told = await changed(world, deployment, pipeline=pipeline(cost=7.0))
    assert (told.latest_revision, list(told.pipeline.steps[1].decision.costs)) == (2, [0, 1, 7, 0])


async def test_a_wrong_matrix_is_refused_and_changes_nothing(world: World) -> None:
    deployment = await deployed(world)
    with pytest.raises(InvalidArgument) as refused:
        await changed(world, deployment, pipeline=pipeline(states=["good", "bad", "ugly"], costs=[0] * 6))
    assert list(refused.value.fields) == ["deployment.pipeline.steps[1:decide].states"]
    assert (await world.current(deployment)).latest_revision == 1


async def test_a_version_that_does_not_fit_into_the_pipeline_is_refused(world: World) -> None:
    deployment = await deployed(world)
    other = Signature(inputs=SIGNATURE.inputs, outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 3)),))
    version = await world.version(await world.model("other"), signature=other)
    with pytest.raises(InvalidArgument, match="names 2, but x has 3 scores"):
        await changed(world, deployment, model_version=version.name)
    alone = await changed(world, deployment, model_version=version.name, pipeline=None)
    assert alone.latest_revision == 2


async def test_a_pipeline_without_a_model_is_refused(world: World) -> None:
    version = await world.version(await world.model(), signature=SIGNATURE)
    steps = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "steps": [{"name": "scale", "normalise": {}}],
    }
    with pytest.raises(InvalidArgument, match="must hold a model"):
        await world.served.create(deployment_request(version.name, "loans", pipeline=ParseDict(steps, Pipeline())))
