"""How many replicas a deployment wants now; pure."""

from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.revision_pb2 import DeploymentRevision

LETTING_GO_S: Final = 3.0
"""The gateways learn within it that the last replica is to go; calls in flight have its server's own grace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The fewest replicas that will do, and the most that are any use; 0 and 0 = none, it sleeps."""

    min: int
    max: int

    def at_most(self, replicas: int) -> "Size":
        """This size, limited; 0 = not limited."""
        return self if not replicas else Size(min=min(self.min, replicas), max=min(self.max, replicas))


def wanted(deployment: Deployment, revision: DeploymentRevision, now: Timestamp) -> Size:  # noqa: ARG001
    """What a revision needs when it answers all calls of its deployment; a rollout may hold it to fewer.

    One that falls asleep keeps its last replica for a moment, until no gateway sends it calls any more.
    """
    if not deployment.HasField("autoscaling"):
        return Size(min=deployment.min_replicas or deployment.replicas, max=deployment.replicas)
    desired = replicas(deployment)
    if not desired and now.ToNanoseconds() < deployment.scaling.change_time.ToNanoseconds() + int(LETTING_GO_S * 1e9):
        desired = 1
    # The floor is what others may trim it to; replicas above it come before any training run's surplus.
    return Size(min=min(desired, max(1, deployment.autoscaling.min_replicas)), max=desired)


def replicas(deployment: Deployment) -> int:
    """How many replicas there should be: as many as the load asks for where it is asked, else `replicas`."""
    if not deployment.HasField("autoscaling"):
        return deployment.replicas
    wish = deployment.autoscaling
    asked = deployment.scaling.desired if deployment.HasField("scaling") else deployment.replicas
    return min(wish.max_replicas, max(wish.min_replicas, asked))


def sleeps(deployment: Deployment) -> bool:
    """Whether calls go to whoever holds them, though a replica may still be there."""
    return not replicas(deployment)


def may_sleep(deployment: Deployment) -> bool:
    """Whether calls are held while it has no replica."""
    if deployment.serving.shared:
        return True  # its model may have to make room for others on the shared servers
    return deployment.HasField("autoscaling") and not deployment.autoscaling.min_replicas
