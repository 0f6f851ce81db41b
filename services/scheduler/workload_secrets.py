"""The secrets that workloads name: let in, group by group, before anything is stored."""

from collections.abc import Iterable

from chassis.secret_mounts import ClosedGate, SecretGate
from lepton.names import ProjectName
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from lepton.scheduler.v1 import workload_pb2
from services.scheduler.slice_secrets import mounts_of


class WorkloadSecrets:
    """Asks the gate; whoever names no secrets is not asked anything."""

    def __init__(self, gate: SecretGate | None) -> None:
        self._gate = gate or ClosedGate()

    async def admit_update(self, request: service.UpdateWorkloadRequest) -> None:
        """As `admit`, where an update may change what is run."""
        paths = set(request.update_mask.paths)
        if not paths or paths & {"groups", "*"}:
            parent, _, _ = request.workload.name.partition("/workloads/")
            await self.admit(parent, [request.workload])

    async def admit(self, parent: str, workloads: Iterable[workload_pb2.Workload]) -> None:
        """Raise what the caller must hear who may not give these secrets to programs of `parent`."""
        for workload in workloads:
            for at, group in enumerate(workload.groups):
                mounts = [*mounts_of(group.program)]
                if mounts:
                    project = ProjectName.parse(parent, "parent").project
                    taken = {*group.program.torch.environment, *group.program.process.environment}
                    await self._gate.admit(mounts, project, f"workload.groups[{at}].program.secrets", taken)
