"""What admission checks say of a workload: kept in its document, where the planner sees it."""

from lepton.errors import FailedPrecondition, NotFound
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from lepton.scheduler.v1 import workload_pb2
from services.scheduler.lifecycle import OVER
from services.scheduler.snapshot import State


def with_check(
    workload: workload_pb2.Workload, request: service.SetAdmissionCheckRequest
) -> workload_pb2.Workload | None:
    """The workload with what one check says now; None when it has said just that already."""
    if State(workload.state) in OVER:
        raise FailedPrecondition("WORKLOAD_ENDED", workload=workload.name, state=State(workload.state).name)
    for check in workload.admission_checks:
        if check.name == request.check:
            if (check.state, check.message) == (request.state, request.message):
                return None
            check.state, check.message = request.state, request.message
            return workload
    raise NotFound("ADMISSION_CHECK_NOT_FOUND", workload=workload.name, check=request.check)
