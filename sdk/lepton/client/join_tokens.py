"""`client.join_tokens`: one-time admissions to the mesh."""

from google.protobuf.duration_pb2 import Duration

from lepton.auth.v1 import identity_service_pb2 as pb
from lepton.auth.v1.identity_service_pb2_grpc import IdentityServiceStub
from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.scope import Scope


class JoinTokens(Group):
    """Makes join tokens."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = IdentityServiceStub(calls.channel("auth"))

    async def create(self, spiffe_path: str, *, ttl_s: int = 600) -> pb.JoinToken:
        """A token that admits `agent/{node}` or `service/{name}` once."""
        request = pb.CreateJoinTokenRequest(spiffe_path=spiffe_path, ttl=Duration(seconds=ttl_s))
        return await self._calls.unary(self._stub.CreateJoinToken, request)
