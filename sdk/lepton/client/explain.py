"""`client.explain`: why something waits, and what would be if something were different."""

from collections.abc import Sequence

from lepton.client.calls import Calls
from lepton.client.group import Group
from lepton.client.scope import Scope
from lepton.names import WorkloadName
from lepton.scheduler.v1 import planning_service_pb2 as pb
from lepton.scheduler.v1.planning_service_pb2_grpc import PlanningServiceStub


class Explain(Group):
    """Asks the planner; nothing here changes anything."""

    def __init__(self, calls: Calls, scope: Scope) -> None:
        super().__init__(calls, scope)
        self._stub = PlanningServiceStub(calls.channel("scheduler"))

    async def why(self, workload: str) -> pb.ExplainWorkloadResponse:
        """Why a workload waits: the reason, what is short, who is in the way, and what would help. NotFound."""
        request = pb.ExplainWorkloadRequest(name=self._scope.name(WorkloadName, workload))
        return await self._calls.unary(self._stub.ExplainWorkload, request)

    async def what_if(self, changes: Sequence[pb.Change], *, project: str | None = None) -> pb.WhatIfResponse:
        """What would become of the project's workloads (`-`: of all) if these changes were made, in this order."""
        parent = "projects/-" if project in ("-", "projects/-") else self._scope.parent(project)
        return await self._calls.unary(self._stub.WhatIf, pb.WhatIfRequest(parent=parent, changes=changes))
