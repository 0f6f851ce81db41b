"""Rollouts as their users steer them; what follows is the reconciler's."""

from collections.abc import Callable
from typing import Final

from chassis.kv import KV
from lepton.errors import FailedPrecondition
from lepton.inference.v1 import inference_service_pb2 as pb
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.rollout_pb2 import RolloutStatus
from lepton.names import DeploymentName
from services.inference.rollout.advance import turn_back
from services.inference.store import deployments

_GOING: Final = frozenset({RolloutStatus.PROGRESSING, RolloutStatus.PAUSED})


class Rollouts:
    """Pauses, resumes, promotes and aborts rollouts. Each raises NotFound, FailedPrecondition, Aborted."""

    def __init__(self, kv: KV) -> None:
        self._deployments = deployments(kv)

    async def pause(self, request: pb.PauseDeploymentRolloutRequest) -> Deployment:
        """Stops a rollout where it is."""

        def pause(status: RolloutStatus) -> None:
            status.paused = True

        return await self._steer(request.name, request.etag, pause)

    async def resume(self, request: pb.ResumeDeploymentRolloutRequest) -> Deployment:
        """Lets a paused rollout go on."""

        def resume(status: RolloutStatus) -> None:
            status.paused = False

        return await self._steer(request.name, request.etag, resume)

    async def promote(self, request: pb.PromoteDeploymentRolloutRequest) -> Deployment:
        """Ends the present step, or all of them and without further comparisons."""

        def promote(status: RolloutStatus) -> None:
            status.paused = False
            status.skip_gate = status.skip_gate or request.full
            status.promoted_steps = _EVERY_STEP if request.full else max(status.promoted_steps, status.step + 1)

        return await self._steer(request.name, request.etag, promote)

    async def abort(self, request: pb.AbortDeploymentRolloutRequest) -> Deployment:
        """Takes a rollout back to the revision it came from."""

        def abort(status: RolloutStatus) -> None:
            turn_back(status, RolloutStatus.ABORTED, "aborted by request")

        return await self._steer(request.name, request.etag, abort)

    async def _steer(self, text: str, etag: str, steer: Callable[[RolloutStatus], None]) -> Deployment:
        def change(current: Deployment) -> None:
            status = current.rollout
            # What is asked for before the leader has begun would be forgotten when it begins.
            if status.state not in _GOING or status.candidate_revision != current.revision:
                state = RolloutStatus.State.Name(status.state)
                raise FailedPrecondition("ROLLOUT_NOT_IN_PROGRESS", deployment=current.name, state=state)
            steer(status)

        return await self._deployments.change(DeploymentName.parse(text), change, etag=etag)


_EVERY_STEP: Final = 1 << 30
