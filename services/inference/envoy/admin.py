"""Owns questions to a running Envoy: where does it listen, which replicas are healthy, how much do they do?"""

import asyncio
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inference.envoy.load import STATS, Failures, Load, Revision, loads
from services.inference.envoy.routes import Endpoint


class EnvoyAdmin:
    """Asks the admin interface on the loopback address that Envoy wrote into its directory."""

    def __init__(self, directory: Path, *, timeout_s: float = 2.0) -> None:
        self._address = directory / "admin.address"
        self._timeout_s = timeout_s
        self._failures = Failures()

    async def is_live(self) -> bool:
        """The gateway has all its configuration and answers."""
        try:
            return await asyncio.to_thread(self._read, "/ready") == b"LIVE\n"
        except OSError:
            return False

    async def listening(self) -> Endpoint:
        document = await self._json("/listeners?format=json")
        address = document["listener_statuses"][0]["local_address"]["socket_address"]
        return Endpoint(host=address["address"], port=address["port_value"])

    async def healthy(self) -> dict[str, frozenset[Endpoint]]:
        """By cluster: the replicas that get calls now. A route may be announced once its replicas are here."""
        document = await self._json("/clusters?format=json")
        return {
            cluster["name"]: frozenset(
                Endpoint(**_address(host)) for host in cluster.get("host_statuses", ()) if _is_healthy(host)
            )
            for cluster in document["cluster_statuses"]
        }

    async def load(self) -> Mapping[Revision, Load]:
        """By model and revision: what its replicas did and do. Raises OSError, ValueError and LookupError."""
        # Histograms are merged because somebody asks, but behind the answer: latencies may lag by one question.
        await asyncio.to_thread(self._read, "/stats?filter=^$")
        failures = dict(self._failures.count(await self._json("/clusters?format=json")))
        query = urllib.parse.urlencode({"format": "json", "histogram_buckets": "detailed", "filter": STATS})
        return loads(await self._json(f"/stats?{query}"), failures)

    async def statistics(self, pattern: str) -> list[dict[str, Any]]:
        """Envoy's own statistics whose names match a regular expression; not its histograms."""
        query = urllib.parse.urlencode({"format": "json", "filter": pattern})
        return [each for each in (await self._json(f"/stats?{query}"))["stats"] if "name" in each]

    async def rejected(self) -> frozenset[str]:
        """The kinds of configuration that Envoy has refused since it started: its last good one stays in force."""
        counts = await self.statistics("update_rejected$|config_fail$")
        return frozenset(each["name"] for each in counts if each.get("value"))

    async def counter(self, name: str) -> int:
        """One of Envoy's own statistics; 0 while it has none of that name."""
        return next((int(each["value"]) for each in await self.statistics(f"^{re.escape(name)}$")), 0)

    async def reopen_logs(self) -> None:
        """Has the access log opened anew, under its name. Raises OSError."""
        await asyncio.to_thread(self._read, "/reopen_logs", b"")

    async def _json(self, path: str) -> Any:
        return json.loads(await asyncio.to_thread(self._read, path))

    def _read(self, path: str, posted: bytes | None = None) -> bytes:
        url = f"http://{self._address.read_text().strip()}{path}"
        with urllib.request.urlopen(url, posted, timeout=self._timeout_s) as answer:
            content: bytes = answer.read()
            return content


def _address(host: dict[str, Any]) -> dict[str, Any]:
    address = host["address"]["socket_address"]
    return {"host": address["address"], "port": address["port_value"]}


def _is_healthy(host: dict[str, Any]) -> bool:
    health = host["health_status"]
    if host.get("priority"):
        return False  # the holder is no replica
    failures = (value for name, value in health.items() if name.startswith("failed_"))
    return health.get("eds_health_status") == "HEALTHY" and not any(failures)
