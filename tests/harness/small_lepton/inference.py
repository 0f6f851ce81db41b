"""Models, versions, deployments; and a gateway with one model."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lepton.errors import Aborted, InvalidArgument
from lepton.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from tests.harness.small_lepton.servicer import Servicer


class Inference(Servicer, inference_service_pb2_grpc.InferenceServiceServicer):
    async def CreateModel(self, request: Any, context: Any) -> Any:
        request.model.name = f"{request.parent}/models/{request.model_id}"
        return self.world.once(request, lambda: self.world.table(Model).add(request.model))

    async def GetModel(self, request: Any, context: Any) -> Any:
        return self.world.table(Model).get(request.name)

    async def ListModels(self, request: Any, context: Any) -> Any:
        page = self.world.table(Model).page(f"{request.parent}/models/", request, "models")
        return inference_service_pb2.ListModelsResponse(**page)

    async def SetModelAlias(self, request: Any, context: Any) -> Any:
        model = self.world.table(Model).get(request.name)
        if request.etag and request.etag != model.etag:
            raise Aborted("ETAG_MISMATCH", name=request.name)
        model.aliases[request.alias] = request.version
        return self.world.table(Model).put(model)

    async def CreateModelVersion(self, request: Any, context: Any) -> Any:
        def make() -> Any:
            model = self.world.table(Model).get(request.parent)
            number = model.latest_version + 1
            self.world.table(Model).change(request.parent, latest_version=number)
            request.model_version.name = f"{request.parent}/versions/{number}"
            return self.world.table(ModelVersion).add(request.model_version)

        return self.world.once(request, make)

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        model_name, _, number = request.name.rpartition("/versions/")
        model = self.world.table(Model).get(model_name)
        number = model.latest_version if number == "latest" else model.aliases.get(number, number)
        return self.world.table(ModelVersion).get(f"{model_name}/versions/{number}")

    async def ListModelVersions(self, request: Any, context: Any) -> Any:
        page = self.world.table(ModelVersion).page(f"{request.parent}/versions/", request, "model_versions")
        return inference_service_pb2.ListModelVersionsResponse(**page)

    async def CreateDeployment(self, request: Any, context: Any) -> Any:
        request.deployment.name = f"{request.parent}/deployments/{request.deployment_id}"
        request.deployment.state = Deployment.STARTING
        project = request.parent.removeprefix("projects/")
        request.deployment.model_name = f"{project}.{request.deployment_id}"
        return self.world.once(request, lambda: self.world.table(Deployment).add(request.deployment))

    async def GetDeployment(self, request: Any, context: Any) -> Any:
        return self.world.table(Deployment).get(request.name)

    async def ListDeployments(self, request: Any, context: Any) -> Any:
        page = self.world.table(Deployment).page(f"{request.parent}/deployments/", request, "deployments")
        return inference_service_pb2.ListDeploymentsResponse(**page)

    async def WatchDeployments(self, request: Any, context: Any) -> AsyncIterator[Any]:
        rows = self.world.table(Deployment).watch(f"{request.parent}/deployments/", request.revision, request.name)
        async for event, revision, each in rows:
            yield inference_service_pb2.WatchDeploymentsResponse(event=event, revision=revision, deployment=each)

    async def UpdateDeployment(self, request: Any, context: Any) -> Any:
        deployment = request.deployment
        if not deployment.model_version:
            raise InvalidArgument("INVALID_FIELD", fields={"deployment.model_version": "is required"})
        changes = {path: getattr(deployment, path) for path in request.update_mask.paths}
        return self.world.table(Deployment).change(deployment.name, **changes)

    async def DeleteDeployment(self, request: Any, context: Any) -> Any:
        return self.world.table(Deployment).change(request.name, state=Deployment.DELETING)


class Gateway(Servicer, service_pb2_grpc.GRPCInferenceServiceServicer):
    """A model that sums each row; it takes four rows at once."""

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        answer = service_pb2.ModelMetadataResponse(name=request.name)
        answer.inputs.add(name="x", datatype="FP32", shape=[-1, 3])
        answer.outputs.add(name="sum", datatype="FP32", shape=[-1])
        return answer

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        answer = service_pb2.ModelConfigResponse()
        answer.config.max_batch_size = 4
        return answer

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        rows = np.frombuffer(request.raw_input_contents[0], "<f4").reshape(tuple(request.inputs[0].shape))
        assert len(rows) <= 4
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="sum", datatype="FP32", shape=[len(rows)])
        answer.raw_output_contents.append(rows.sum(axis=1).astype("<f4").tobytes())
        return answer
