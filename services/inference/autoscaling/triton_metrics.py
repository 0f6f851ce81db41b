"""What replicas tell of their queues: Triton's own counters, read from each replica's metrics endpoint."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from chassis.fetching import Fetcher, FetchError, FetchRules

_LINE: Final = re.compile(r"^(?P<name>nv_inference_\w+)\{(?P<labels>[^}]*)\} (?P<value>[0-9.eE+-]+)$", re.MULTILINE)
_COMPUTE: Final = frozenset({"compute_input", "compute_infer", "compute_output"})
# Replicas are where agents say they are. What an agent says must not have this service ask anything but a replica: no
# link-local address (a cloud's metadata), and no redirects.
_NETWORKS: Final = tuple(map(ip_network, ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
_RULES: Final = FetchRules(allow_http=True, networks=_NETWORKS, max_bytes=4 << 20, timeout_s=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What one replica has done since it started, over all its models."""

    requests: float = 0.0
    executions: float = 0.0
    queue_s: float = 0.0
    """What its requests have waited, together."""
    compute_s: float = 0.0
    """What its requests were computed for, together: requests that run as one batch count the time of it each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queueing:
    """What the replicas of a deployment did between two looks."""

    queue_delay_s: float | None
    """What a request waited, in the mean; None = nobody told."""
    busy: float | None
    """For how much of the time replicas computed, added up: 1.5 = one and a half did all the time."""


def parse(text: str) -> Counters:
    """The counters in a page of Triton's metrics (Prometheus' text form)."""
    sums: dict[str, float] = {}
    for line in _LINE.finditer(text):
        name = line["name"].removeprefix("nv_inference_").removesuffix("_duration_us")
        sums[name] = sums.get(name, 0.0) + float(line["value"])
    return Counters(
        requests=sums.get("request_success", 0.0),
        executions=sums.get("exec_count", 0.0),
        queue_s=sums.get("queue", 0.0) / 1e6,
        compute_s=sum(sums.get(part, 0.0) for part in _COMPUTE) / 1e6,
    )


class ReplicaQueues:
    """Remembers what replicas told, so that the next look shows what has come since."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, Counters]] = {}
        self._fetcher = Fetcher(_RULES)

    async def look(self, endpoints: Iterable[str], now: float, instances: int = 1) -> Queueing:
        """Asks all replicas of a deployment at once; one that does not answer is left out."""
        addresses = sorted(set(endpoints))
        answers = await asyncio.gather(*(self._read(each) for each in addresses))
        told = {address: counters for address, counters in zip(addresses, answers, strict=True) if counters is not None}
        return self.between(told, now, instances)

    def between(self, told: Mapping[str, Counters], now: float, instances: int = 1) -> Queueing:
        """What has come since each was heard last."""
        requests = waited_s = busy = 0.0
        known = 0
        for address, counters in told.items():
            before_at, before = self._before.get(address, (now, counters))
            self._before[address] = now, counters
            if now <= before_at:
                continue
            known += 1
            done, runs = counters.requests - before.requests, counters.executions - before.executions
            if done > 0:
                requests += done
                waited_s += counters.queue_s - before.queue_s
                computed_s = (counters.compute_s - before.compute_s) * (runs / done)
                busy += min(1.0, computed_s / (now - before_at) / instances)
        if not known:
            return Queueing(queue_delay_s=None, busy=None)
        return Queueing(queue_delay_s=waited_s / requests if requests else 0.0, busy=busy)

    async def _read(self, address: str) -> Counters | None:
        """One replica's counters; None when it does not tell."""
        try:
            return parse((await self._fetcher.get(f"http://{address}/metrics")).decode(errors="replace"))
        except (FetchError, ValueError):
            return None

    def forget_all_but(self, endpoints: Iterable[str]) -> None:
        """Replicas that are no more."""
        kept = set(endpoints)
        self._before = {address: told for address, told in self._before.items() if address in kept}
