"""`client.usage`: how pools, nodes, queues and projects are used."""

from datetime import UTC, datetime, timedelta

from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.pools import pool_name
from lepton.client.scope import Scope
from lepton.scheduler.v1.planning_service_pb2 import GetUtilizationRequest, GetUtilizationResponse
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub


class Usage(Group):
    """Reads series of use, with their trend and the bottleneck."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = PlanningServiceStub(calls.channel("scheduler"))

    async def get(
        self, name: str, *, since: datetime | timedelta | None = None, step_s: int = 0
    ) -> GetUtilizationResponse:
        """The use of something by its whole name, or of a pool by its id; of the last hour unless told otherwise."""
        request = GetUtilizationRequest(name=name if "/" in name else pool_name(name), step_s=step_s)
        if since is not None:
            start = datetime.now(UTC) - since if isinstance(since, timedelta) else since
            request.start_time.FromDatetime(start.astimezone(UTC))
        return await self._calls.unary(self._stub.GetUtilization, request)
