"""LimitService: how much principals may use."""

from typing import Any

from google.protobuf.empty_pb2 import Empty

from chassis.call import POLICY_REVISION
from lepton.auth.v1 import limit_service_pb2 as pb
from lepton.auth.v1.limit_service_pb2_grpc import LimitServiceServicer
from lepton.auth.v1.principal_limit_pb2 import PrincipalLimit
from lepton.names import PrincipalLimitName
from services.auth.limits import Limits


class LimitServicer(LimitServiceServicer):
    """Serves the limits of principals."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    async def CreatePrincipalLimit(self, request: pb.CreatePrincipalLimitRequest, context: Any) -> PrincipalLimit:
        return await self._limits.create(request)

    async def GetPrincipalLimit(self, request: pb.GetPrincipalLimitRequest, context: Any) -> PrincipalLimit:
        return await self._limits.get(PrincipalLimitName.parse(request.name))

    async def ListPrincipalLimits(
        self, request: pb.ListPrincipalLimitsRequest, context: Any
    ) -> pb.ListPrincipalLimitsResponse:
        limits, token = await self._limits.page(request)
        return pb.ListPrincipalLimitsResponse(principal_limits=limits, next_page_token=token)

    async def UpdatePrincipalLimit(self, request: pb.UpdatePrincipalLimitRequest, context: Any) -> PrincipalLimit:
        return await self._limits.update(request)

    async def DeletePrincipalLimit(self, request: pb.DeletePrincipalLimitRequest, context: Any) -> Empty:
        revision = await self._limits.delete(PrincipalLimitName.parse(request.name))
        context.set_trailing_metadata(((POLICY_REVISION, str(revision)),))
        return Empty()
