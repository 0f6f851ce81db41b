"""Owns questions to a running Envoy: where does it listen, and which replicas does it find healthy?"""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

from services.inference.envoy.routes import Endpoint


class EnvoyAdmin:
    """Asks the admin interface on the loopback address that Envoy wrote into its directory."""

    def __init__(self, directory: Path, *, timeout_s: float = 2.0) -> None:
        self._address = directory / "admin.address"
        self._timeout_s = timeout_s

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
        """By model: the replicas that get calls now. A route may be announced once its replicas are here."""
        document = await self._json("/clusters?format=json")
        return {
            cluster["name"]: frozenset(
                Endpoint(**_address(host)) for host in cluster.get("host_statuses", ()) if _is_healthy(host)
            )
            for cluster in document["cluster_statuses"]
        }

    async def _json(self, path: str) -> Any:
        return json.loads(await asyncio.to_thread(self._read, path))

    def _read(self, path: str) -> bytes:
        url = f"http://{self._address.read_text().strip()}{path}"
        with urllib.request.urlopen(url, timeout=self._timeout_s) as answer:
            content: bytes = answer.read()
            return content


def _address(host: dict[str, Any]) -> dict[str, Any]:
    address = host["address"]["socket_address"]
    return {"host": address["address"], "port": address["port_value"]}


def _is_healthy(host: dict[str, Any]) -> bool:
    health = host["health_status"]
    failures = (value for name, value in health.items() if name.startswith("failed_"))
    return health.get("eds_health_status") == "HEALTHY" and not any(failures)
