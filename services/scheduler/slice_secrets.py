"""Which secrets a node was given with its slices: what auth asks before it lets an agent have a value."""

from collections.abc import Iterable, Iterator
from typing import Any

from chassis.kv import KV, list_all
from lepton.errors import LeptonError, PermissionDenied
from lepton.internal.v1 import ledger_pb2, secrets_pb2_grpc
from lepton.internal.v1 import secrets_pb2 as pb
from lepton.names import WorkloadName
from lepton.scheduler.v1 import program_pb2, workload_pb2
from services.scheduler import keys
from services.scheduler.lifecycle import FINAL
from services.scheduler.snapshot import SliceState


class SliceSecrets:
    """Answers from the store, not from memory: what was taken from a node is refused at once."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv

    async def given(self, request: pb.GetSliceSecretsRequest) -> pb.GetSliceSecretsResponse:
        """The secrets of a generation's programs on a node. PermissionDenied (SLICE_NOT_ASSIGNED) when it runs none."""
        name = WorkloadName.parse(request.workload, "workload")
        entry = await self._kv.get(keys.assignment(name, request.generation))
        if entry is None:
            raise _not_assigned(request)
        assignment = ledger_pb2.Assignment.FromString(entry.value)
        if assignment.workload_uid != request.workload_uid or assignment.HasField("revoke_time"):
            raise _not_assigned(request)
        statuses = (await list_all(self._kv, keys.statuses(name, request.generation))).entries
        ended = () if assignment.tasks else _ended(workload_pb2.Slice.FromString(each.value) for each in statuses)
        groups = groups_on(assignment, request.node, frozenset(ended))
        if not groups:
            raise _not_assigned(request)
        return pb.GetSliceSecretsResponse(secrets=references(assignment.programs[each] for each in sorted(groups)))


class SliceSecretsServicer(secrets_pb2_grpc.SliceSecretsServiceServicer):
    """lepton.internal.v1.SliceSecretsService."""

    def __init__(self, slices: SliceSecrets) -> None:
        self._slices = slices

    async def GetSliceSecrets(self, request: pb.GetSliceSecretsRequest, context: Any) -> pb.GetSliceSecretsResponse:
        """See the proto."""
        return await self._slices.given(request)


def groups_on(assignment: ledger_pb2.Assignment, node: str, ended: frozenset[int] = frozenset()) -> set[str]:
    """The groups of which slices, or tasks, that have not ended are placed on the node with this id; pure."""
    groups = {
        each.group for each in assignment.slices if each.node.rpartition("/")[2] == node and each.index not in ended
    }
    if any(each.node.rpartition("/")[2] == node and each.runs for each in assignment.tasks):
        groups |= set(assignment.programs)
    return groups


def references(programs: Iterable[program_pb2.Program]) -> Iterator[pb.SecretReference]:
    """The secrets that programs name, each with each version once; pure."""
    known = set[tuple[str, int]]()
    for program in programs:
        for mount in mounts_of(program):
            if (mount.secret, mount.version) not in known:
                known.add((mount.secret, mount.version))
                yield pb.SecretReference(secret=mount.secret, version=mount.version)


def mounts_of(program: program_pb2.Program) -> Iterator[program_pb2.SecretMount]:
    """The secrets of a program."""
    yield from program.torch.secrets
    yield from program.process.secrets


def _ended(statuses: Iterable[workload_pb2.Slice]) -> Iterator[int]:
    return (each.index for each in statuses if SliceState(each.state) in FINAL)


def _not_assigned(request: pb.GetSliceSecretsRequest) -> LeptonError:
    return PermissionDenied(
        "SLICE_NOT_ASSIGNED", node=request.node, workload=request.workload, generation=str(request.generation)
    )
