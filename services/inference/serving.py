"""What a deployment asks of the scheduler, and what its workloads' states mean for it; pure."""

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.deployment_pb2 import Deployment, Replica
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.names import DeploymentName, WorkloadName
from lepton.scheduler.v1.program_pb2 import Program, ServedModel, TorchProgram, TritonProgram
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Slice, SliceGroup, Workload

ONNX: Final = "onnx"
"""The name under which an export leaves its digest in its slice's outputs."""
EXPORT_MODULE: Final = "services.inference.compress.export_onnx"
GROUP: Final = "replica"
DEFAULT_CPU_MILLI: Final = 250
DEFAULT_MEMORY_BYTES: Final = 512 << 20
_EXPORT_MEMORY_BYTES: Final = 2 << 30
_REPLICA_RESTARTS: Final = 1000
_EXPORT_RESTARTS: Final = 2

NEXT: Final[Mapping["Deployment.State.ValueType", frozenset["Deployment.State.ValueType"]]] = {
    Deployment.PREPARING: frozenset({Deployment.STARTING, Deployment.FAILED, Deployment.DELETING}),
    Deployment.STARTING: frozenset({Deployment.READY, Deployment.DEGRADED, Deployment.FAILED, Deployment.DELETING}),
    Deployment.READY: frozenset({Deployment.DEGRADED, Deployment.STARTING, Deployment.FAILED, Deployment.DELETING}),
    Deployment.DEGRADED: frozenset({Deployment.READY, Deployment.STARTING, Deployment.FAILED, Deployment.DELETING}),
    Deployment.FAILED: frozenset({Deployment.DELETING}),
    Deployment.DELETING: frozenset(),
}
"""Where a deployment may go from where it is."""

SERVING: Final = frozenset({Deployment.STARTING, Deployment.READY, Deployment.DEGRADED})
"""The states in which a deployment is what its replicas are."""


def model_name(name: DeploymentName) -> str:
    """The name that clients put into their requests: unique over all tenants, so that the gateway can route by it."""
    return f"{name.project}.{name.deployment}"


def export_name(deployment: Deployment) -> WorkloadName:
    """The workload that makes a deployment's ONNX file."""
    return _workload_name(deployment, "export")


def serving_name(deployment: Deployment) -> WorkloadName:
    """The workload that runs a deployment's replicas."""
    return _workload_name(deployment, "serve")


def export_request(deployment: Deployment, version: ModelVersion, pools: tuple[str, ...]) -> CreateWorkloadRequest:
    """Asks for the export of a version to ONNX; a repeat asks for the same one."""
    name = export_name(deployment)
    spec = json.dumps({"project": name.project, "package": version.package}, sort_keys=True)
    group = SliceGroup(
        name="export",
        min_count=1,
        resources=Resources(cpu_milli=500, memory_bytes=_EXPORT_MEMORY_BYTES),
        program=Program(torch=TorchProgram(module=EXPORT_MODULE, spec_json=spec)),
    )
    workload = Workload(
        owner=deployment.name,
        kind=Workload.BATCH,
        priority=deployment.priority,
        pools=pools,
        groups=[group],
        max_restarts=_EXPORT_RESTARTS,
        trace_context=deployment.trace_context,
        queue=deployment.queue,
    )
    return _create(name, workload)


def serving_request(deployment: Deployment, golden: str) -> CreateWorkloadRequest:
    """Asks for a deployment's replicas; a repeat asks for the same ones."""
    workload = Workload(
        owner=deployment.name,
        kind=Workload.SERVING,
        priority=deployment.priority,
        pools=deployment.pools,
        groups=[replica_group(deployment, golden)],
        max_restarts=_REPLICA_RESTARTS,
        trace_context=deployment.trace_context,
        queue=deployment.queue,
    )
    return _create(serving_name(deployment), workload)


def replica_group(deployment: Deployment, golden: str) -> SliceGroup:
    """The replicas: each one Triton server with the deployment's model."""
    served = ServedModel(name=deployment.model_name, repository=deployment.repository, golden=golden)
    return SliceGroup(
        name=GROUP,
        min_count=deployment.min_replicas or deployment.replicas,
        max_count=deployment.replicas,
        resources=Resources(
            cpu_milli=deployment.cpu_milli or DEFAULT_CPU_MILLI,
            memory_bytes=deployment.memory_bytes or DEFAULT_MEMORY_BYTES,
        ),
        program=Program(triton=TritonProgram(models=[served])),
    )


def has_size(group: SliceGroup, deployment: Deployment) -> bool:
    """Whether the replicas' group has as many as the deployment asks for."""
    floor = deployment.min_replicas or deployment.replicas
    return (group.min_count, group.max_count or group.min_count) == (floor, deployment.replicas)


def exported(workload: Workload) -> str:
    """The digest of the ONNX file that an export has made; empty while it has not."""
    if workload.state != Workload.SUCCEEDED:
        return ""
    return next((piece.outputs[ONNX] for piece in workload.slices if ONNX in piece.outputs), "")


def endpoints(workload: Workload) -> tuple[str, ...]:
    """Where the replicas answer that have passed golden inference: `host:port`."""
    return tuple(
        piece.endpoints["grpc"] for piece in workload.slices if piece.state == Slice.READY and "grpc" in piece.endpoints
    )


def observe(deployment: Deployment, workload: Workload, routed: Collection[str], now: Timestamp) -> None:
    """Brings the deployment to where its replicas are: ready are those that the gateway sends requests to."""
    if deployment.state not in SERVING:
        return  # it is being deleted, or cannot be served: that stands
    live = [piece for piece in workload.slices if piece.state not in _GONE]
    del deployment.replica_states[:]
    deployment.replica_states.extend(
        Replica(
            index=piece.index,
            node=piece.node,
            is_ready=piece.state == Slice.READY and piece.endpoints.get("grpc", "") in routed,
            message=piece.message,
        )
        for piece in live
    )
    deployment.ready_replicas = sum(replica.is_ready for replica in deployment.replica_states)
    deployment.workload = workload.name
    deployment.message = workload.message
    state = _state(deployment, workload)
    if state in NEXT[deployment.state]:
        deployment.state = state
    if state == Deployment.READY and not deployment.HasField("ready_time"):
        deployment.ready_time.CopyFrom(now)


_GONE: Final = frozenset({Slice.SUCCEEDED, Slice.FAILED, Slice.STOPPED, Slice.LOST})


def _state(deployment: Deployment, workload: Workload) -> "Deployment.State.ValueType":
    if workload.state in {Workload.FAILED, Workload.CANCELLED, Workload.SUCCEEDED}:
        return Deployment.FAILED
    if deployment.ready_replicas >= deployment.replicas:
        return Deployment.READY
    return Deployment.DEGRADED if deployment.ready_replicas else Deployment.STARTING


def _workload_name(deployment: Deployment, purpose: str) -> WorkloadName:
    name = DeploymentName.parse(deployment.name)
    return WorkloadName(name.project, f"{purpose}-{name.deployment[:46].rstrip('-')}-{deployment.uid[:8]}")


def _create(name: WorkloadName, workload: Workload) -> CreateWorkloadRequest:
    # Derived from the name, which holds the deployment's uid: a leader that repeats it creates nothing twice.
    request_id = str(uuid.uuid5(uuid.NAMESPACE_URL, str(name)))
    return CreateWorkloadRequest(
        parent=str(name.parent), workload_id=name.workload, workload=workload, request_id=request_id
    )
