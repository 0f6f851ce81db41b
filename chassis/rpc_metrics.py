"""Metrics of served calls under go-grpc-prometheus' names: plain integers, read at each scrape."""

from collections.abc import Iterator
from typing import Any, Final

import grpc
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.call import Call
from chassis.method import Method

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_OK: Final = grpc.StatusCode.OK
_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")


class MethodRecord:
    """The counters of one method."""

    __slots__ = ("buckets", "failed", "labels", "received", "seconds", "sent", "started", "succeeded")

    def __init__(self, method: Method) -> None:
        self.labels = (method.kind, method.service, method.name)
        self.started = self.succeeded = self.received = self.sent = 0
        self.failed: dict[grpc.StatusCode, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0

    def start(self, _call: Call, _request: Any) -> None:
        """A call began."""
        self.started += 1


class RpcMetrics(Collector):
    """All methods of a server."""

    def __init__(self) -> None:
        self._records: dict[str, MethodRecord] = {}

    def of(self, method: Method) -> MethodRecord:
        """The counters of a method."""
        return self._records.setdefault(method.path, MethodRecord(method))

    def collect(self) -> Iterator[Metric]:
        """What Prometheus scrapes."""
        started = CounterMetricFamily("grpc_server_started", "Calls begun.", labels=_LABELS)
        handled = CounterMetricFamily("grpc_server_handled", "Calls ended, by status.", labels=(*_LABELS, "grpc_code"))
        received = CounterMetricFamily("grpc_server_msg_received", "Request messages received.", labels=_LABELS)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Response messages sent.", labels=_LABELS)
        handling = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Seconds from the call's arrival to its end.", labels=_LABELS
        )
        for record in self._records.values():
            started.add_metric(record.labels, record.started)
            received.add_metric(record.labels, record.received)
            sent.add_metric(record.labels, record.sent)
            for code, count in ((_OK, record.succeeded), *record.failed.items()):
                handled.add_metric((*record.labels, _camel(code)), count)
            handling.add_metric(record.labels, _cumulative(record.buckets), record.seconds)
        yield from (started, handled, received, sent, handling)


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _camel(code: grpc.StatusCode) -> str:
    # go-grpc-prometheus spells codes as Go does: OK, NotFound, DeadlineExceeded.
    return "OK" if code is grpc.StatusCode.OK else code.name.title().replace("_", "")
