"""Generations as the planner sees them."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from lepton.internal.v1 import ledger_pb2
from lepton.scheduler.v1 import resources_pb2, workload_pb2
from services.scheduler.convert.documents import stored
from services.scheduler.convert.nodes import demand_of
from services.scheduler.convert.slices import slice_of
from services.scheduler.snapshot import Assignment, Ran, Slice


@lru_cache(maxsize=4096)
def _ran(resources: bytes, program: bytes) -> Ran:
    """What many generations were given is alike, and a generation's own stays as it is while its slices change."""
    return Ran(
        demand=demand_of(resources_pb2.Resources.FromString(resources)), program=hashlib.sha256(program).digest()
    )


def assignment_of(
    assignment: ledger_pb2.Assignment,
    statuses: Mapping[int, workload_pb2.Slice],
    tasks: tuple[Slice, ...] | None = None,
    revision: int = 0,
) -> Assignment:
    """A generation with what was reported about its slices; those of an array are given."""
    slices = tuple(slice_of(statuses.get(each.index, each)) for each in assignment.slices) if tasks is None else tasks
    return Assignment(
        workload=assignment.workload,
        generation=assignment.generation,
        pool=assignment.pool,
        slices=slices,
        sessions=dict(assignment.sessions),
        groups={
            name: _ran(resources.SerializeToString(), stored(assignment.programs[name]))
            for name, resources in assignment.resources.items()
        },
        kept=frozenset(assignment.kept),
        revoked=assignment.revoke_reason or ("revoked" if assignment.HasField("revoke_time") else ""),
        revision=revision,
    )
