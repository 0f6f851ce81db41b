"""The RPC that agents open."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from chassis.call import Call, current_call
from lepton.errors import LeptonError
from lepton.internal.v1 import node_session_pb2, node_session_pb2_grpc
from lepton.names import NodeName
from services.scheduler.sessions.conversation import Conversations, peer_is_node


class NodeSessionServicer(node_session_pb2_grpc.NodeSessionServiceServicer):
    """lepton.internal.v1.NodeSessionService."""

    def __init__(
        self,
        conversations: Conversations,
        identify: Callable[[Call | None], Callable[[NodeName], None]] = peer_is_node,
    ) -> None:
        self._conversations = conversations
        self._identify = identify

    # Writes itself instead of yielding: a queue between reader and generator would cost a third of every heartbeat.
    async def OpenSession(  # type: ignore[override]
        self, requests: AsyncIterator[node_session_pb2.OpenSessionRequest], context: Any
    ) -> None:
        call = current_call()
        await self._conversations.hold(requests, context.write, _cutter(call), self._identify(call))


def _cutter(call: Call | None) -> Callable[[LeptonError], None]:
    if call is not None:
        return call.cut
    raise RuntimeError("sessions are served through the chassis only")
