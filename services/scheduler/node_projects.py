"""Which projects a node runs something of: what auth asks before it lets an agent have a project's keys."""

from collections.abc import Iterable
from typing import Any

from lepton.internal.v1 import project_keys_pb2 as pb
from lepton.internal.v1 import project_keys_pb2_grpc
from services.scheduler.ledger import Ledger
from services.scheduler.lifecycle import FINAL
from services.scheduler.records import AssignmentRecord
from services.scheduler.snapshot import SliceState


class NodeProjectServicer(project_keys_pb2_grpc.NodeProjectServiceServicer):
    """lepton.internal.v1.NodeProjectService, from the ledger that this replica follows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def CheckNodeProject(self, request: pb.CheckNodeProjectRequest, context: Any) -> pb.CheckNodeProjectResponse:
        """See the proto. A certificate names the node's id and not its pool, so the node is looked for in all pools."""
        names = [f"{pool}/nodes/{request.node}" for pool in self._ledger.pools]
        records = [(name, record) for name in names for record in self._ledger.on_node(name)]
        return pb.CheckNodeProjectResponse(is_there=runs(records, request.project))


def runs(records: Iterable[tuple[str, AssignmentRecord]], project: str) -> bool:
    """Whether one of the generations on the nodes is the project's and has something there that has not ended; pure."""
    return any(
        record.proto.workload.partition("/workloads/")[0] == project and _is_live(record, node)
        for node, record in records
    )


def _is_live(record: AssignmentRecord, node: str) -> bool:
    if record.tasks is not None:
        return bool(record.tasks.running(node))
    return any(each.node == node and SliceState(each.state) not in FINAL for each in record.slices())
