"""Deadlines: known to everything below the call, required from peers of the mesh."""

from typing import Any

from chassis.call import Call
from chassis.method import Method
from chassis.middleware import Steps
from lepton.errors import DeadlineExceeded, InvalidArgument


class Deadline:
    """Reads the deadline; gRPC itself cancels the call when it passes."""

    def bind(self, method: Method) -> Steps:
        """Streams may be endless by nature, so only unary calls of peers must carry one."""
        is_stream = method.streams_requests or method.streams_responses
        may_be_endless = is_stream or method.is_infrastructure

        def enter(call: Call, _request: Any) -> None:
            remaining_s = call.context.time_remaining()
            if remaining_s is not None:
                if remaining_s <= 0:
                    raise DeadlineExceeded("DEADLINE_TOO_SHORT")
                call.deadline = call.started + remaining_s
            elif not may_be_endless and call.peer:
                raise InvalidArgument("DEADLINE_REQUIRED")

        return Steps(enter=enter)
