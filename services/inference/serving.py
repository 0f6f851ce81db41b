"""What a revision asks of the scheduler, and what its workloads' states mean for its deployment; pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import ModelVersion
from lepton.inference.v1.revision_pb2 import DeploymentRevision
from lepton.names import DeploymentName, WorkloadName
from lepton.scheduler.v1.program_pb2 import Program, ServedModel, TorchProgram, TritonProgram
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import Slice, SliceGroup, Workload
from services.inference.revisions import number_of
from services.inference.rollout.seen import Seen
from services.inference.sizing import Size
from services.inference.workload_creation import creation

ONNX: Final = "onnx"
"""The name under which an export leaves its digest in its slice's outputs."""
EXPORT_MODULE: Final = "services.inference.compress.export_onnx"
GROUP: Final = "replica"
DEFAULT_CPU_MILLI: Final = 250
DEFAULT_MEMORY_BYTES: Final = 512 << 20
_STEP_MEMORY_BYTES: Final = 96 << 20
"""Of a pipeline: each of its steps may have a process of its own."""
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


def export_name(deployment: Deployment, revision: DeploymentRevision) -> WorkloadName:
    """The workload that makes a revision's ONNX file."""
    return _workload_name(deployment, f"r{number_of(revision)}", "export")


def serving_name(deployment: Deployment, revision: DeploymentRevision) -> WorkloadName:
    """The workload that runs a revision's replicas; another one after it slept."""
    again = f"-i{revision.incarnation}" if revision.incarnation else ""
    return _workload_name(deployment, f"r{number_of(revision)}{again}", "serve")


def export_request(
    deployment: Deployment, revision: DeploymentRevision, version: ModelVersion, pools: tuple[str, ...]
) -> CreateWorkloadRequest:
    """Asks for the export of a revision's version to ONNX; a repeat asks for the same one."""
    name = export_name(deployment, revision)
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
    return creation(name, workload)


def serving_request(deployment: Deployment, revision: DeploymentRevision, size: Size) -> CreateWorkloadRequest:
    """Asks for a revision's replicas; a repeat asks for the same ones."""
    workload = Workload(
        owner=deployment.name,
        kind=Workload.SERVING,
        priority=deployment.priority,
        pools=revision.pools,
        groups=[replica_group(revision, size)],
        max_restarts=_REPLICA_RESTARTS,
        trace_context=deployment.trace_context,
        queue=deployment.queue,
    )
    return creation(serving_name(deployment, revision), workload)


def replica_group(revision: DeploymentRevision, size: Size) -> SliceGroup:
    """The replicas: each one Triton server with the revision's models."""
    return SliceGroup(
        name=GROUP,
        min_count=max(size.min, 1),
        max_count=max(size.max, 1),
        resources=Resources(
            cpu_milli=revision.cpu_milli or DEFAULT_CPU_MILLI,
            memory_bytes=revision.memory_bytes
            or DEFAULT_MEMORY_BYTES + len(revision.pipeline.steps) * _STEP_MEMORY_BYTES,
        ),
        program=Program(
            triton=TritonProgram(
                models=[ServedModel.FromString(each.served) for each in revision.models],
                shared=revision.serving.shared,
            )
        ),
    )


def has_size(group: SliceGroup, size: Size) -> bool:
    """Whether the replicas' group has as many as are asked for."""
    return (group.min_count, group.max_count or group.min_count) == (max(size.min, 1), max(size.max, 1))


def exported(workload: Workload) -> str:
    """The digest of the ONNX file that an export has made; empty while it has not."""
    if workload.state != Workload.SUCCEEDED:
        return ""
    return next((piece.outputs[ONNX] for piece in workload.slices if ONNX in piece.outputs), "")


def endpoints(workload: Workload) -> tuple[str, ...]:
    """Where the replicas answer that have passed golden inference: `host:port`."""
    return tuple(address for address, _ in proved(workload))


def proved(workload: Workload) -> Iterator[tuple[str, Slice]]:
    """The slices of the replicas that have passed golden inference, each with its address."""
    for piece in workload.slices:
        if piece.state == Slice.READY and "grpc" in piece.endpoints:
            yield piece.endpoints["grpc"], piece


def observe(
    deployment: Deployment, seen: Sequence[Seen], size: Size, now: Timestamp, refused: Sequence[str] = ()
) -> None:
    """Brings the deployment to where its revisions are: ready are the replicas that the gateway sends calls to.

    `seen` are the revisions that calls may go to, the stable one first: the deployment fails when that one does.
    `refused` are the gateway's files that Envoy has not taken.
    """
    stable = seen[0]
    if deployment.state == Deployment.PREPARING and stable.is_prepared:
        deployment.state = Deployment.STARTING
    elif deployment.state == Deployment.PREPARING and stable.failure:
        deployment.state, deployment.message = Deployment.FAILED, stable.failure
    if deployment.state not in SERVING:
        return  # it is being deleted, or cannot be served: that stands
    del deployment.replica_states[:]
    for each in seen:
        deployment.replica_states.extend(each.replicas)
    deployment.ready_replicas = sum(each.routed for each in seen if each.has_calls)
    deployment.workload, deployment.repository = stable.workload, stable.repository
    deployment.message = stable.failure or stable.blocked or stable.message
    if refused:
        problem = f"the gateway has refused {', '.join(refused)} and goes on with what it had; Envoy's log says why"
        deployment.message = f"{deployment.message}; {problem}".lstrip("; ")
    state = _state(deployment, stable, size)
    if state in NEXT[deployment.state]:
        deployment.state = state
    if state == Deployment.READY and not deployment.HasField("ready_time"):
        deployment.ready_time.CopyFrom(now)


def _state(deployment: Deployment, stable: Seen, size: Size) -> "Deployment.State.ValueType":
    if stable.failure:
        return Deployment.FAILED
    if deployment.ready_replicas >= size.max:
        return Deployment.READY
    return Deployment.DEGRADED if deployment.ready_replicas or stable.blocked else Deployment.STARTING


def _workload_name(deployment: Deployment, which: str, purpose: str) -> WorkloadName:
    name = DeploymentName.parse(deployment.name)
    place = name.deployment[:30].rstrip("-")
    return WorkloadName(name.project, f"{purpose}-{place}-{deployment.uid[:8]}-{which}")
