"""Access log and metrics: every call is counted and timed; the calls worth a line get one."""

from bisect import bisect_left
from time import monotonic
from typing import Final, Literal

import grpc

from chassis.call import Call
from chassis.logs import logger
from chassis.method import Idempotency, Method
from chassis.middleware import Steps
from chassis.rpc_metrics import BUCKETS_S, RpcMetrics

log = logger(__name__)

Which = Literal["all", "changes", "failures"]
_OK: Final = grpc.StatusCode.OK
_SLOW_S: Final = 1.0


class AccessLog:
    """Counts all; logs failures and slow calls, changes unless told otherwise, everything when asked."""

    def __init__(self, metrics: RpcMetrics, which: Which = "changes") -> None:
        self._metrics = metrics
        self._which = which

    def bind(self, method: Method) -> Steps:
        """Nothing for health and reflection."""
        if method.is_infrastructure:
            return Steps()
        changes = method.idempotency is not Idempotency.NO_SIDE_EFFECTS
        logs_success = self._which == "all" or (self._which == "changes" and changes)
        is_stream = method.streams_requests or method.streams_responses
        record = self._metrics.of(method)

        def leave(call: Call) -> None:
            seconds = monotonic() - call.started
            record.seconds += seconds
            record.buckets[bisect_left(BUCKETS_S, seconds)] += 1
            record.received += call.received
            record.sent += call.sent
            if call.code is _OK:  # hashing an enum would cost more than all the rest
                record.succeeded += 1
            else:
                record.failed[call.code] = record.failed.get(call.code, 0) + 1
            if logs_success or call.code is not _OK or (seconds > _SLOW_S and not is_stream):
                _write(call, seconds)

        return Steps(enter=record.start, leave=leave)


def _write(call: Call, seconds: float) -> None:
    log.info(
        "call served",
        method=call.method.path,
        code=call.code.name,
        reason=getattr(call.error, "reason", ""),
        seconds=round(seconds, 6),
        principal=call.principal.name if call.principal is not None else "",
        project=call.project or "",
        address=call.context.peer(),
    )
