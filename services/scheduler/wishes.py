"""What a caller may wish for: the rules on a workload that the protos cannot say, and which of it may change later."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.names import PoolName
from lepton.scheduler.v1 import program_pb2, workload_pb2
from lepton.scheduler.v1 import scheduler_service_pb2 as service

MAX_SLICES: Final = 4096  # a generation is one document, and must fit into a transaction with the workload's
_CHANGEABLE: Final = ("groups", "priority")
_FORBIDDEN: Final = ("LD_", "PYTHON")


def check_wishes(workload: workload_pb2.Workload, path: str) -> None:
    """Raise InvalidArgument naming every field that is wrong."""
    fields = dict(_violations(workload, path))
    if fields:
        raise InvalidArgument("INVALID_FIELD", fields=fields)


def _violations(workload: workload_pb2.Workload, path: str) -> Iterator[tuple[str, str]]:
    for at, pool in enumerate(workload.pools):
        PoolName.parse(pool, f"{path}.pools[{at}]")
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
    changed = workload_pb2.Workload()
    changed.CopyFrom(stored)
    for path in paths:
        changed.ClearField(path)  # type: ignore[arg-type]
        if path == "priority":
            changed.priority = wanted.priority
        else:
            changed.groups.extend(wanted.groups)
    if not changed.groups:
        raise InvalidArgument("INVALID_FIELD", fields={"workload.groups": "must not be empty"})
    return changed
