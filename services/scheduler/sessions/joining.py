"""Under which name a node joins: the one it gives, or, when it leaves its pool open, one in the pool that takes it."""

import re
from collections.abc import Collection
from typing import Final

from lepton.errors import FailedPrecondition
from lepton.names import NodeName
from lepton.scheduler.v1 import node_pb2, pool_pb2
from services.scheduler.membership import Candidate, assign

_OPEN: Final = re.compile(r"pools/-/nodes/([^/]+)")


def joining_name(node: node_pb2.Node, pools: Collection[pool_pb2.Pool]) -> NodeName:
    """The node's name. Raises InvalidArgument (INVALID_NAME), FailedPrecondition (NODE_WITHOUT_POOL).

    A certificate names the node's id, never its pool: what an agent may say of its pool, it may leave open as well.
    """
    found = _OPEN.fullmatch(node.name)
    if found is None:
        return NodeName.parse(node.name, "hello.node.name")
    placed = assign(pools, Candidate.of(node))
    if not placed.pool:
        why = ". ".join(placed.refusals) or "no pool has a membership rule"
        raise FailedPrecondition("NODE_WITHOUT_POOL", node=found[1], why=why)
    return NodeName.parse(f"{placed.pool}/nodes/{found[1]}", "hello.node.name")
