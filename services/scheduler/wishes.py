"""What a caller may wish for: the rules on a workload that the protos cannot say, and which of it may change later."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.names import FloatingResourceName, JobName, PoolName, ProjectName, QueueName
from lepton.scheduler.v1 import program_pb2, workload_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as service
from services.scheduler.convert.workloads import MAX_TASKS

MAX_SLICES: Final = MAX_TASKS  # a generation is one document, and must fit into a transaction with the workload's
_CHANGEABLE: Final = ("groups", "priority", "hold", "queue", "expected_duration_s")
_FORBIDDEN: Final = ("LD_", "PYTHON")


def check_wishes(workload: workload_pb2.Workload, path: str) -> None:
    """Raise InvalidArgument naming every field that is wrong."""
    fields = dict(_violations(workload, path))
    if fields:
        raise InvalidArgument("INVALID_FIELD", fields=fields)


def check_jobs(workload: workload_pb2.Workload, project: ProjectName, path: str) -> None:
    """Raise InvalidArgument where a rank is to run a job of another project: its agent would ask the trainer for it."""
    for at, group in enumerate(workload.groups):
        job, where = group.program.torch.job, f"{path}.groups[{at}].program.torch.job"
        if job and JobName.parse(job, where).project != project.project:
            raise InvalidArgument("INVALID_FIELD", fields={where: f"must be a job of {project}"})


def _violations(workload: workload_pb2.Workload, path: str) -> Iterator[tuple[str, str]]:
    for at, pool in enumerate(workload.pools):
        PoolName.parse(pool, f"{path}.pools[{at}]")
    if workload.queue:
        QueueName.parse(workload.queue, f"{path}.queue")
    for resource in workload.floating_resources:
        FloatingResourceName.parse(resource, f"{path}.floating_resources[{resource}]")
    yield from _conditions(workload, path)
    if workload.HasField("array"):
        yield from _of_array(workload, path)
    for name, count in Counter(group.name for group in workload.groups).items():
        if count > 1:
            yield f"{path}.groups", f"has {count} groups named {name}"
    if sum(max(group.min_count, group.max_count) for group in workload.groups) > MAX_SLICES:
        yield f"{path}.groups", f"have more than {MAX_SLICES} slices"
    for at, group in enumerate(workload.groups):
        where = f"{path}.groups[{at}]"
        if group.max_count and group.max_count < group.min_count:
            yield f"{where}.max_count", "must not be less than min_count"
        if group.resources.device_milli > 1000 and group.resources.device_milli % 1000:
            yield (
                f"{where}.resources.device_milli",
                "must be a multiple of 1000 above 1000: a share never spans devices",
            )
        for name in _environment(group.program):
            if name.startswith(_FORBIDDEN):
                yield f"{where}.program", f"must not set {name}"


def _conditions(workload: workload_pb2.Workload, path: str) -> Iterator[tuple[str, str]]:
    """What it asks of nodes, and of others before it is admitted."""
    for key in workload.node_selector:
        if not key:
            yield f"{path}.node_selector", "must not have an empty key: name the label"
    for at, toleration in enumerate(workload.tolerations):
        if toleration.value and not toleration.key:
            yield f"{path}.tolerations[{at}].key", "must be set where a value is: an empty key tolerates every taint"
    for name, count in Counter(check.name for check in workload.admission_checks).items():
        if count > 1:
            yield f"{path}.admission_checks", f"has {count} checks named {name}"
    size = workload.topology.slice_size
    if size and any(group.min_count % size for group in workload.groups):
        yield f"{path}.topology.slice_size", "must divide the min_count of every group"


def _of_array(workload: workload_pb2.Workload, path: str) -> Iterator[tuple[str, str]]:
    """Tasks stand alone, each a process."""
    if workload.kind not in (workload_pb2.Workload.BATCH, workload_pb2.Workload.KIND_UNSPECIFIED):
        yield f"{path}.kind", "must be BATCH where there is an array"
    if len(workload.groups) != 1:
        yield f"{path}.groups", "must be one where there is an array"
    for at, group in enumerate(workload.groups):
        if group.min_count != 1:
            yield f"{path}.groups[{at}].min_count", "must be 1 where there is an array: tasks start one by one"
        if not group.program.HasField("process"):
            yield f"{path}.groups[{at}].program", "must be a process where there is an array"
    if workload.HasField("topology"):
        yield f"{path}.topology", "must not be set where there is an array: tasks stand alone"


def _environment(program: program_pb2.Program) -> Iterator[str]:
    yield from program.torch.environment
    yield from program.process.environment


def apply_update(stored: workload_pb2.Workload, request: service.UpdateWorkloadRequest) -> workload_pb2.Workload:
    """The workload with the fields of the mask changed."""
    wanted, paths = request.workload, list(request.update_mask.paths)
    if paths == ["*"]:
        paths = list(_CHANGEABLE)
    unknown = [path for path in paths if path not in _CHANGEABLE]
    if unknown:
        raise InvalidArgument("INVALID_FIELD", fields={"update_mask": f"{unknown[0]} cannot be changed"})
    if not paths:
        paths = [path for path in _CHANGEABLE if getattr(wanted, path)]
    if "groups" in paths and stored.kind != workload_pb2.Workload.SERVING:
        raise FailedPrecondition("WORKLOAD_NOT_SERVING", workload=stored.name)
    if "queue" in paths and stored.state != workload_pb2.Workload.PENDING and wanted.queue != stored.queue:
        state = workload_pb2.Workload.State.Name(stored.state)
        raise FailedPrecondition("WORKLOAD_ADMITTED", workload=stored.name, state=state)
    changed = workload_pb2.Workload()
    changed.CopyFrom(stored)
    for path in paths:
        changed.ClearField(path)  # type: ignore[arg-type]
        if path == "groups":
            changed.groups.extend(wanted.groups)
        else:
            setattr(changed, path, getattr(wanted, path))
    if not changed.groups:
        raise InvalidArgument("INVALID_FIELD", fields={"workload.groups": "must not be empty"})
    return changed
