"""One node's session at this replica."""

from dataclasses import dataclass, field

from chassis.kv import Lease
from lepton.internal.v1 import node_session_pb2
from lepton.names import NodeName
from services.scheduler.sessions.stream import Stream


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """An agent that is connected, or was a moment ago."""

    name: NodeName
    id: str
    hello: node_session_pb2.Hello
    heard_at: float  # monotonic
    acked_at: float = float("-inf")
    node: str = field(init=False)
    stream: Stream | None = None
    lease: Lease | None = None
    beat: node_session_pb2.Heartbeat | None = None  # the last one
    revision: int = 0  # of our write of the node's key
    is_over: bool = False

    def __post_init__(self) -> None:
        self.node = str(self.name)
