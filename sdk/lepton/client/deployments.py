"""`client.deployments`: models being served."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from lepton.client.calls import Calls
from lepton.client.group import Group, new_request_id
from lepton.client.listing import Listing, Page
from lepton.client.pools import pool_name
from lepton.client.queues import queue_name
from lepton.client.scope import Scope
from lepton.client.watching import Change, Watch, awaited, in_states
from lepton.errors import DeadlineExceeded, NotFound
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.autoscaling_pb2 import Autoscaling
from lepton.inference.v1.call_limits_pb2 import CallLimits
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from lepton.inference.v1.pipeline_pb2 import Pipeline
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.inference.v1.rollout_pb2 import RolloutStatus, Strategy
from lepton.inference.v1.serving_options_pb2 import ServingOptions
from lepton.names import DeploymentName

SETTLED: Final = frozenset({Deployment.READY, Deployment.FAILED})


_ENDED: Final = frozenset(
    {
        RolloutStatus.COMPLETED,
        RolloutStatus.REFUSED,
        RolloutStatus.ROLLED_BACK,
        RolloutStatus.ABORTED,
        RolloutStatus.FAILED,
    }
)


def is_rolled_out(deployment: Deployment) -> bool:
    """Whether the rollout to the deployment's newest revision is over, well or badly."""
    status = deployment.rollout
    is_known = deployment.revision in {status.stable_revision, status.candidate_revision}
    return is_known and status.state in _ENDED


class Deployments(Group):
    """Deploys model versions, and reads, lists, watches, scales and deletes deployments."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = InferenceServiceStub(calls.channel("inference"))

    async def create(
        self,
        deployment_id: str,
        model_version: str,
        *,
        replicas: int = 1,
        min_replicas: int = 0,
        pools: Collection[str] = (),
        queue: str = "",
        priority: int = 0,
        strategy: Strategy | None = None,
        autoscaling: Autoscaling | None = None,
        pipeline: Pipeline | None = None,
        serving: ServingOptions | None = None,
        limits: CallLimits | None = None,
        project: str | None = None,
        request_id: str = "",
    ) -> Deployment:
        """Serve a model version, by its whole name; `strategy` says how later ones take over.

        With `autoscaling` the replicas follow the load; `replicas` are what it begins with. `pipeline` is what happens
        around the model, `limits` what callers may ask of it.
        AlreadyExists, NotFound (the version).
        """
        deployment = Deployment(
            strategy=strategy,
            autoscaling=autoscaling,
            pipeline=pipeline,
            serving=serving,
            limits=limits,
            model_version=model_version,
            replicas=replicas,
            min_replicas=min_replicas,
            pools=map(pool_name, pools),
            queue=queue_name(queue) if queue else "",
            priority=priority,
        )
        request = pb.CreateDeploymentRequest(
            parent=self._scope.parent(project),
            deployment_id=deployment_id,
            deployment=deployment,
            request_id=request_id or new_request_id(),
        )
        return await self._calls.unary(self._stub.CreateDeployment, request)

    async def get(self, deployment: str) -> Deployment:
        """A deployment by id or name."""
        request = pb.GetDeploymentRequest(name=self._name(deployment))
        return await self._calls.unary(self._stub.GetDeployment, request)

    def list(self, *, project: str | None = None, page_size: int = 0) -> Listing[Deployment]:
        """The deployments of a project."""
        parent = self._scope.parent(project)

        async def page(token: str) -> Page[Deployment]:
            request = pb.ListDeploymentsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListDeployments, request)
            return answer.deployments, answer.next_page_token

        return Listing(page)

    async def watch(self, deployment: str) -> AsyncGenerator[Deployment, None]:
        """The deployment as it is, then after every change; ends when it is deleted."""
        name = self._name(deployment)
        async with aclosing(self._watch(name).changes()) as changes:
            async for change in changes:
                if change.is_deleted:
                    return
                yield change.resource

    def watch_all(self, *, project: str | None = None, revision: int = 0) -> AsyncGenerator[Change[Deployment], None]:
        """The deployments of a project as they are, then every change, for ever."""
        return self._watch("", self._scope.parent(project), revision).changes()

    async def wait(
        self,
        deployment: str,
        *,
        states: int | Collection[int] = SETTLED,
        until: Callable[[Deployment], bool] | None = None,
        timeout_s: float | None = None,
    ) -> Deployment:
        """The deployment when it is READY (or in the states, or `until` says so), or has FAILED. DeadlineExceeded."""
        name, wished = self._name(deployment), in_states(states)
        return await awaited(
            name,
            lambda: self.get(name),
            lambda known: self._watch(name, known=(known,)),
            lambda each: (until(each) if until else each.state in wished) or each.state == Deployment.FAILED,
            timeout_s,
        )

    async def wait_deleted(self, deployment: str, *, timeout_s: float | None = None) -> None:
        """Return when the deployment is gone. DeadlineExceeded."""
        name = self._name(deployment)
        try:
            async with asyncio.timeout(timeout_s):
                known = await self.get(name)
                watch = self._watch(name, known=(known,))
                async with aclosing(watch.changes()) as changes:
                    async for change in changes:
                        if change.is_deleted:
                            return
        except NotFound:
            return
        except TimeoutError:
            raise DeadlineExceeded("WAIT_TIMED_OUT", name=name, state="not deleted yet") from None

    async def autoscale(self, deployment: str, autoscaling: Autoscaling | None) -> Deployment:
        """Let the replicas follow the load; None: as many as `replicas` say, from now on."""
        wanted = await self.get(deployment)  # the fields that a deployment must have are checked in updates too
        wanted.ClearField("autoscaling")
        wanted.MergeFrom(Deployment(autoscaling=autoscaling))
        wanted.etag = ""  # what scales it writes to it all the time
        mask = FieldMask(paths=["autoscaling"])
        request = pb.UpdateDeploymentRequest(deployment=wanted, update_mask=mask)
        return await self._calls.unary(self._stub.UpdateDeployment, request)

    async def scale(self, deployment: str, replicas: int, *, min_replicas: int | None = None) -> Deployment:
        """Another number of replicas, and of the fewest that will do; `wait` says when they are ready."""
        changed = await self.get(deployment)  # the fields that a deployment must have are checked in updates too
        changed.replicas = replicas
        paths = ["replicas"]
        if min_replicas is not None:
            changed.min_replicas = min_replicas
            paths.append("min_replicas")
        request = pb.UpdateDeploymentRequest(deployment=changed, update_mask=FieldMask(paths=paths))
        return await self._calls.unary(self._stub.UpdateDeployment, request)

    async def update(self, deployment: Deployment, *paths: str) -> Deployment:
        """Change these fields; another template (`model_version`, `serving`, `cpu_milli`, ...) starts a rollout.

        Aborted where the deployment's etag is set and no longer true.
        """
        request = pb.UpdateDeploymentRequest(deployment=deployment, update_mask=FieldMask(paths=paths))
        return await self._calls.unary(self._stub.UpdateDeployment, request)

    async def roll_out(
        self,
        deployment: str,
        model_version: str,
        *,
        strategy: Strategy | None = None,
        limits: CallLimits | None = None,
    ) -> Deployment:
        """Go over to another version, by its whole name; `wait_rollout` says what has become of it. NotFound.

        `limits` are in force at once.
        """
        changed = await self.get(deployment)
        changed.model_version, changed.etag = model_version, ""
        paths = ["model_version"]
        if strategy is not None:
            changed.strategy.CopyFrom(strategy)
            paths.append("strategy")
        if limits is not None:
            changed.limits.CopyFrom(limits)
            paths.append("limits")
        return await self.update(changed, *paths)

    async def wait_rollout(self, deployment: str, *, timeout_s: float | None = None) -> Deployment:
        """The deployment when its newest revision gets all calls, or its rollout has ended badly. DeadlineExceeded."""
        return await self.wait(deployment, until=is_rolled_out, timeout_s=timeout_s)

    async def pause(self, deployment: str) -> Deployment:
        """Stop a rollout where it is. FailedPrecondition (ROLLOUT_NOT_IN_PROGRESS)."""
        request = pb.PauseDeploymentRolloutRequest(name=self._name(deployment))
        return await self._calls.unary(self._stub.PauseDeploymentRollout, request)

    async def resume(self, deployment: str) -> Deployment:
        """Let a paused rollout go on. FailedPrecondition (ROLLOUT_NOT_IN_PROGRESS)."""
        request = pb.ResumeDeploymentRolloutRequest(name=self._name(deployment))
        return await self._calls.unary(self._stub.ResumeDeploymentRollout, request)

    async def promote(self, deployment: str, *, full: bool = False, etag: str = "") -> Deployment:
        """End the present step of a rollout; `full` = all of them, without further comparisons."""
        request = pb.PromoteDeploymentRolloutRequest(name=self._name(deployment), full=full, etag=etag)
        return await self._calls.unary(self._stub.PromoteDeploymentRollout, request)

    async def abort(self, deployment: str) -> Deployment:
        """Take a rollout back. FailedPrecondition (ROLLOUT_NOT_IN_PROGRESS)."""
        request = pb.AbortDeploymentRolloutRequest(name=self._name(deployment))
        return await self._calls.unary(self._stub.AbortDeploymentRollout, request)

    async def undo(self, deployment: str, *, revision: int = 0) -> Deployment:
        """Go back to an earlier revision; 0 = the one before, or the one that still gets the calls. NotFound."""
        request = pb.UndoDeploymentRolloutRequest(name=self._name(deployment), revision=revision)
        return await self._calls.unary(self._stub.UndoDeploymentRollout, request)

    def revisions(self, deployment: str, *, page_size: int = 0) -> Listing[DeploymentRevision]:
        """The revisions of a deployment, the newest first."""
        parent = self._name(deployment)

        async def page(token: str) -> Page[DeploymentRevision]:
            request = pb.ListDeploymentRevisionsRequest(parent=parent, page_size=page_size, page_token=token)
            answer = await self._calls.unary(self._stub.ListDeploymentRevisions, request)
            return answer.deployment_revisions, answer.next_page_token

        return Listing(page)

    async def revision(self, deployment: str, number: int) -> DeploymentRevision:
        """One revision of a deployment. NotFound."""
        request = pb.GetDeploymentRevisionRequest(name=f"{self._name(deployment)}/revisions/{number}")
        return await self._calls.unary(self._stub.GetDeploymentRevision, request)

    async def delete(self, deployment: str, *, etag: str = "") -> Deployment:
        """Take a deployment down; `wait_deleted` says when it is gone."""
        request = pb.DeleteDeploymentRequest(name=self._name(deployment), etag=etag)
        return await self._calls.unary(self._stub.DeleteDeployment, request)

    def _watch(
        self, name: str, parent: str = "", revision: int = 0, known: Iterable[Deployment] = ()
    ) -> Watch[Deployment]:
        parent = parent or str(DeploymentName.parse(name).parent)
        return Watch(
            self._calls,
            Deployment,
            lambda position: self._stub.WatchDeployments(
                pb.WatchDeploymentsRequest(parent=parent, name=name, revision=position)
            ),
            revision,
            known,
        )

    def _name(self, deployment: str) -> str:
        return self._scope.name(DeploymentName, deployment)
