"""Owns what the gateway knows about the load of each revision: calls, failures, and how long replicas took."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from services.inference.envoy.routes import of_cluster

Json = Mapping[str, Any]
Revision = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """So many calls took from `lower_ms` to less than `upper_ms`; Envoy measures whole milliseconds."""

    lower_ms: float
    upper_ms: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One revision. Counts are totals since the gateway started: `since` makes a span of them."""

    requests: int = 0
    """Calls that were sent to a replica, each attempt and each mirrored copy by itself."""
    errors: int = 0
    """Of them those that the replica failed: UNKNOWN, INTERNAL, UNAVAILABLE, DEADLINE_EXCEEDED, DATA_LOSS...

    What the caller did wrong (INVALID_ARGUMENT, NOT_FOUND) is none.
    """
    in_flight: int = 0
    """Calls at replicas now, and those that wait for a connection."""
    latencies: tuple[Bucket, ...] = ()
    """Of the calls that were answered."""

    def since(self, earlier: "Load") -> "Load":
        """What came after `earlier`; everything, when the gateway was restarted in between."""
        if earlier.requests > self.requests:
            return self
        before = {bucket.lower_ms: bucket.count for bucket in earlier.latencies}
        return Load(
            requests=self.requests - earlier.requests,
            errors=max(0, self.errors - earlier.errors),
            in_flight=self.in_flight,
            latencies=tuple(
                Bucket(lower_ms=each.lower_ms, upper_ms=each.upper_ms, count=count)
                for each in self.latencies
                if (count := each.count - before.get(each.lower_ms, 0)) > 0
            ),
        )

    def quantile_ms(self, share: float) -> float:
        """What this share of the calls stayed within (0.99 = p99), between its bucket's bounds; NaN without calls."""
        left = share * sum(bucket.count for bucket in self.latencies)
        for bucket in self.latencies:
            if left <= bucket.count:
                return bucket.lower_ms + (bucket.upper_ms - bucket.lower_ms) * (left / bucket.count)
            left -= bucket.count
        return self.latencies[-1].upper_ms if self.latencies else math.nan


class Failures:
    """Adds up what hosts count, because a host that leaves takes its count with it."""

    def __init__(self) -> None:
        self._total: dict[Revision, int] = {}
        self._seen: dict[tuple[Revision, str], int] = {}

    def count(self, clusters: Json) -> Mapping[Revision, int]:
        """The failures of every revision so far, with this answer of Envoy's `/clusters`."""
        seen: dict[tuple[Revision, str], int] = {}
        for cluster in clusters["cluster_statuses"]:
            revision = of_cluster(cluster["name"])
            if revision is None:
                continue
            self._total.setdefault(revision, 0)
            for host in cluster.get("host_statuses", ()):
                now = _host_errors(host)
                key = revision, _address(host)
                before = self._seen.get(key, 0)
                self._total[revision] += now - before if now >= before else now
                seen[key] = now
        self._seen = seen
        self._total = {revision: total for revision, total in self._total.items() if revision in _served(clusters)}
        return self._total


def loads(stats: Json, failures: Mapping[Revision, int]) -> dict[Revision, Load]:
    """By revision, from Envoy's `/stats?format=json&histogram_buckets=detailed` and the failures of the hosts."""
    numbers: dict[Revision, dict[str, int]] = {revision: {} for revision in failures}
    buckets: dict[Revision, tuple[Bucket, ...]] = {}
    for entry in stats["stats"]:
        if "name" in entry:
            revision, name = _stat(entry["name"])
            if revision in numbers:
                numbers[revision][name] = int(entry["value"])
            continue
        for histogram in entry.get("histograms", {}).get("details", ()):
            revision, name = _stat(histogram["name"])
            if revision is not None and name == "upstream_rq_time":
                buckets[revision] = tuple(_buckets(histogram.get("totals", ())))
    return {
        revision: Load(
            requests=found.get("upstream_rq_total", 0),
            errors=failures.get(revision, 0),
            in_flight=found.get("upstream_rq_active", 0) + found.get("upstream_rq_pending_active", 0),
            latencies=buckets.get(revision, ()),
        )
        for revision, found in numbers.items()
    }


STATS = r"^cluster\..*@r\d+\.(upstream_rq_total|upstream_rq_active|upstream_rq_pending_active|upstream_rq_time)$"
"""Which of Envoy's statistics `loads` reads."""


def _stat(name: str) -> tuple[Revision | None, str]:
    cluster, _, last = name.removeprefix("cluster.").rpartition(".")
    return of_cluster(cluster), last


def _buckets(totals: Iterable[Json]) -> Iterable[Bucket]:
    for each in totals:
        lower = float(each["lower_bound"])
        # Whole milliseconds are stored, so the bucket of 7.0 to 7.1 holds what took 7 to 8.
        upper = lower + max(1.0, float(each["width"]))
        yield Bucket(lower_ms=lower, upper_ms=upper, count=int(each["count"]))


def _host_errors(host: Json) -> int:
    return next((int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_error"), 0)


def _address(host: Json) -> str:
    address = host["address"]["socket_address"]
    return f"{address['address']}:{address['port_value']}"


def _served(clusters: Json) -> frozenset[Revision]:
    found = (of_cluster(cluster["name"]) for cluster in clusters["cluster_statuses"])
    return frozenset(revision for revision in found if revision is not None)
