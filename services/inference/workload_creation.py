"""The request that creates a workload once, however often it is sent."""

import uuid

from lepton.names import WorkloadName
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Workload


def creation(name: WorkloadName, workload: Workload) -> CreateWorkloadRequest:
    """For a name that holds its owner's uid. The request's id comes from it, so repeating creates nothing twice."""
    request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, str(name)))
    return CreateWorkloadRequest(
        parent=str(name.parent), workload_id=name.workload, workload=workload, request_id=request_id
    )
