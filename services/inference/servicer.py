"""The inference service's public methods: convert in, call, convert out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.kv import KV
from chassis.paging import Pager
from chassis.watching import changes
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import DeploymentName, DeploymentRevisionName, ProjectName, not_found
from services.inference.deployments import Deployments
from services.inference.registry import Registry
from services.inference.registry_methods import RegistryMethods
from services.inference.rollouts import Rollouts
from services.inference.store import (
    deployment_key,
    deployment_name_of,
    deployments,
    deployments_prefix,
    revisions,
    revisions_prefix,
)


class InferenceServicer(RegistryMethods):
    """Models, versions and deployments."""

    def __init__(self, kv: KV, registry: Registry, served: Deployments, pager: Pager) -> None:
        super().__init__(kv, registry, pager)
        self._kv, self._registry, self._served, self._pager = kv, registry, served, pager
        self._revisions, self._rollouts = revisions(kv), Rollouts(kv)
        self._deployments = deployments(kv)

    async def CreateModel(self, request: pb.CreateModelRequest, context: Any) -> Model:
        """Creates a model."""
        return await self._registry.create_model(request)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> Model:
        """Reads a model."""
        return await self._registry.get_model(request.name)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Any) -> Empty:
        """Deletes a model."""
        await self._registry.delete_model(request)
        return Empty()

    async def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Any) -> Model:
        """Moves an alias."""
        return await self._registry.set_alias(request)

    async def CreateModelVersion(self, request: pb.CreateModelVersionRequest, context: Any) -> ModelVersion:
        """Registers a version."""
        return await self._registry.create_version(request)

    async def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Any) -> ModelVersion:
        """Reads a version."""
        return await self._registry.get_version(request.name)

    async def CreateDeployment(self, request: pb.CreateDeploymentRequest, context: Any) -> Deployment:
        """Deploys a version."""
        return await self._served.create(request)

    async def GetDeployment(self, request: pb.GetDeploymentRequest, context: Any) -> Deployment:
        """Reads a deployment."""
        return await self._deployments.get(DeploymentName.parse(request.name))

    async def ListDeployments(self, request: pb.ListDeploymentsRequest, context: Any) -> pb.ListDeploymentsResponse:
        """Lists deployments."""
        page = await self._pager.page(deployments_prefix(ProjectName.parse(request.parent, "parent")), request)
        return pb.ListDeploymentsResponse(
            deployments=map(self._deployments.of, page.entries), next_page_token=page.next_page_token
        )

    async def WatchDeployments(
        self, request: pb.WatchDeploymentsRequest, context: Any
    ) -> AsyncIterator[pb.WatchDeploymentsResponse]:
        """Follows deployments."""
        project = ProjectName.parse(request.parent, "parent")
        only = deployment_key(_within(project, request.name)) if request.name else ""
        async with aclosing(changes(self._kv, only or deployments_prefix(project), request.revision)) as batches:
            async for batch in batches:
                for event in batch.events:
                    if only and event.key != only:
                        continue  # a deployment whose id begins with the one asked for
                    found = self._deployments.of(event.entry) if event.entry is not None else None
                    yield _change(event.key, found, event.revision)
                yield pb.WatchDeploymentsResponse(event=pb.WatchDeploymentsResponse.BOOKMARK, revision=batch.revision)

    async def UpdateDeployment(self, request: pb.UpdateDeploymentRequest, context: Any) -> Deployment:
        """Changes a deployment."""
        return await self._served.update(request)

    async def GetDeploymentRevision(self, request: pb.GetDeploymentRevisionRequest, context: Any) -> DeploymentRevision:
        """Reads a revision."""
        return await self._revisions.get(DeploymentRevisionName.parse(request.name))

    async def ListDeploymentRevisions(
        self, request: pb.ListDeploymentRevisionsRequest, context: Any
    ) -> pb.ListDeploymentRevisionsResponse:
        """Lists revisions."""
        name = DeploymentName.parse(request.parent, "parent")
        await self._deployments.get(name)
        page = await self._pager.page(revisions_prefix(name), request)
        return pb.ListDeploymentRevisionsResponse(
            deployment_revisions=map(self._revisions.of, page.entries), next_page_token=page.next_page_token
        )

    async def PauseDeploymentRollout(self, request: pb.PauseDeploymentRolloutRequest, context: Any) -> Deployment:
        """Stops a rollout where it is."""
        return await self._rollouts.pause(request)

    async def ResumeDeploymentRollout(self, request: pb.ResumeDeploymentRolloutRequest, context: Any) -> Deployment:
        """Lets a rollout go on."""
        return await self._rollouts.resume(request)

    async def PromoteDeploymentRollout(self, request: pb.PromoteDeploymentRolloutRequest, context: Any) -> Deployment:
        """Ends the present step."""
        return await self._rollouts.promote(request)

    async def AbortDeploymentRollout(self, request: pb.AbortDeploymentRolloutRequest, context: Any) -> Deployment:
        """Takes a rollout back."""
        return await self._rollouts.abort(request)

    async def UndoDeploymentRollout(self, request: pb.UndoDeploymentRolloutRequest, context: Any) -> Deployment:
        """Goes back to an earlier revision."""
        return await self._served.undo(request)

    async def DeleteDeployment(self, request: pb.DeleteDeploymentRequest, context: Any) -> Deployment:
        """Takes a deployment down."""
        return await self._served.delete(request)


def _within(project: ProjectName, text: str) -> DeploymentName:
    name = DeploymentName.parse(text)
    if name.project != project.project:
        raise not_found(name)
    return name


def _change(key: str, deployment: Deployment | None, revision: int) -> pb.WatchDeploymentsResponse:
    if deployment is not None:
        changed = pb.WatchDeploymentsResponse.CHANGED
        return pb.WatchDeploymentsResponse(event=changed, deployment=deployment, revision=revision)
    gone = Deployment(name=str(deployment_name_of(key)))
    return pb.WatchDeploymentsResponse(event=pb.WatchDeploymentsResponse.DELETED, deployment=gone, revision=revision)
