"""Telemetry of a service: traces (lepton.tracing) and the one place where metrics are declared."""

from collections.abc import Sequence
from functools import cache
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from lepton.tracing import (
    Scope,
    Span,
    Trace,
    current_trace,
    enter_trace,
    is_tracing,
    parse,
    span,
    start_span,
    traceparent,
    tracing,
    unsampled,
)

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@cache
def counter(name: str, description: str, labels: tuple[str, ...] = ()) -> Counter:
    """A count that only grows; labels have few values, never names of resources or principals."""
    return Counter(name, description, labels)


@cache
def gauge(name: str, description: str, labels: tuple[str, ...] = ()) -> Gauge:
    """A value that goes up and down."""
    return Gauge(name, description, labels)


@cache
def histogram(
    name: str, description: str, labels: tuple[str, ...] = (), buckets: Sequence[float] = SECONDS
) -> Histogram:
    """A distribution; the name ends in its unit."""
    return Histogram(name, description, labels, buckets=buckets)


__all__ = [
    "Scope",
    "Span",
    "Trace",
    "counter",
    "current_trace",
    "enter_trace",
    "gauge",
    "histogram",
    "is_tracing",
    "parse",
    "span",
    "start_span",
    "traceparent",
    "tracing",
    "unsampled",
]
