"""What is kept of shared models, one document each, changed by compare-and-set; and what each looks like to others."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from chassis.kv import KV
from chassis.replica_channels import MUTUAL, TLS_FACT
from chassis.resources import Resources
from lepton.internal.v1.model_server_pb2 import ModelPlacement, SharedModel
from lepton.names import WorkloadName
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference.shared.placement import NEW_IS_OLD_S, Failure, Model, Place
from services.inference.store import ROOT

SHARED: Final = f"{ROOT}shared/"
LEADER: Final = f"{ROOT}shared_leader"
OWNER: Final = "modelServers/shared"
SERVERS: Final = "shared-models"
"""The workload of a project's shared servers."""


def shared_key(name: WorkloadName) -> str:
    """Where a shared model lies."""
    return f"{SHARED}{name.project}/{name.workload}"


def name_of(key: str) -> str:
    """The workload that lies at a key: the id of the shared model."""
    project, _, workload = key.removeprefix(SHARED).partition("/")
    return str(WorkloadName(project, workload))


def shared_models(kv: KV) -> Resources[WorkloadName, SharedModel]:
    """The shared models."""
    return Resources(kv, SharedModel, shared_key)


def servers_name(project: str) -> WorkloadName:
    """The workload of a project's shared servers."""
    return WorkloadName(project, SERVERS)


def seen_as(model: SharedModel) -> Workload:
    """The workload that its owner sees: a replica for every server that has it, ready where it answers."""
    seen = Workload()
    seen.CopyFrom(model.workload)
    seen.etag = model.etag
    seen.message = model.message
    served = seen.groups[0].program.triton.models[0].name
    for index, place in enumerate(sorted(model.placements, key=lambda each: each.endpoint)):
        is_loaded = place.HasField("load_time")
        seen.slices.add(
            index=index,
            group=seen.groups[0].name,
            node=place.node,
            state=Slice.READY if is_loaded else Slice.STARTING,
            endpoints={"grpc": place.endpoint} if is_loaded else {},
            facts=_facts(served, place),
        )
    is_serving = any(each.HasField("load_time") for each in model.placements)
    seen.state = Workload.RUNNING if is_serving else Workload.ASSIGNED
    return seen


def _facts(served: str, place: ModelPlacement) -> dict[str, str]:
    """What its slice says of a replica."""
    engine = {f"engine/{served}": place.engine} if place.engine else {}
    return {**engine, TLS_FACT: MUTUAL} if place.is_mutual_tls else engine


def to_plan(model: SharedModel) -> Model:
    """A shared model as the planner knows it."""
    made_s = seconds(model.workload.create_time)
    return Model(
        id=model.workload.name,
        name=model.workload.groups[0].program.triton.models[0].name,
        wanted=model.wanted,
        last_use_s=seconds(model.last_use_time) if model.HasField("last_use_time") else made_s - NEW_IS_OLD_S,
        places=tuple(Place(endpoint=each.endpoint, since_s=seconds(each.assign_time)) for each in model.placements),
        failures=tuple(Failure(endpoint=each.endpoint, at_s=seconds(each.time)) for each in model.failures),
        calls_per_minute=model.calls_per_minute,
        memory_bytes=model.memory_bytes,
    )


def seconds(stamp: Timestamp) -> float:
    """Since the epoch."""
    return stamp.ToNanoseconds() / 1e9
