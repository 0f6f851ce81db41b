"""PolicyFeedService: streams the access policy to the other services."""

from collections.abc import AsyncIterator
from typing import Any

from lepton.internal.v1 import policy_feed_pb2 as pb
from lepton.internal.v1 import policy_feed_pb2_grpc
from services.auth.policy import Policy


class PolicyFeedServicer(policy_feed_pb2_grpc.PolicyFeedServiceServicer):
    """Serves the policy feed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def WatchPolicy(self, request: pb.WatchPolicyRequest, context: Any) -> AsyncIterator[pb.WatchPolicyResponse]:
        async for response in self._policy.watch():
            yield response
