"""Owns what Envoy has refused: it goes on with the last good version of a file, and says so in its statistics alone."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from typing import Any, Final, Protocol

from chassis.clock import Clock
from chassis.logs import logger

log = logger(__name__)
VERSION: Final = "version_info"
"""Where a file says its version; Envoy tells which one is in force."""
_IN_FORCE: Final = ".version_text"
_COUNTS: Final = (".update_rejected", ".update_failure", ".config_fail")
_FILES: Final = {
    "cluster_manager.cds": "cds.json",
    "listener_manager.lds": "lds.json",
    "http.gateway.rds.models": "rds.json",
}
_FOLDERS: Final = {"cluster.": "eds/", "extension_config_discovery.http_filter.": "ecds/"}
_LOOKS_S: Final = (0.5, 0.5, 2.0)
"""So long after a write, and after the look before it, is looked: what two looks find is no moment's difference."""


class Statistics(Protocol):
    """Who can be asked."""

    async def statistics(self, pattern: str) -> list[dict[str, Any]]:
        """Envoy's statistics whose names match: `name` and `value` of each."""
        ...


def versioned(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a file that Envoy follows, with its version: a digest of the rest."""
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return {**document, VERSION: digest[:16]}


def refused(statistics: Iterable[Mapping[str, Any]], versions: Mapping[str, str]) -> frozenset[str]:
    """The files whose version is not in force though Envoy has looked at one and refused it; pure.

    `versions` are those that were written, by path.
    """
    in_force: dict[str, str] = {}
    blamed: set[str] = set()
    for each in statistics:
        name, value = str(each.get("name", "")), each.get("value")
        subscription, _, _ = name.rpartition(".")
        path = _path(subscription)
        if name.endswith(_IN_FORCE):
            in_force[path] = str(value)
        elif name.endswith(_COUNTS) and value:
            blamed.add(path)
    return frozenset(path for path in blamed & versions.keys() if in_force.get(path) != versions[path])


class Rejections:
    """Looks after every write of the gateway's files whether Envoy has taken them."""

    def __init__(self, envoy: Statistics, clock: Clock) -> None:
        self._envoy, self._clock = envoy, clock
        self._versions: dict[str, str] = {}
        self._seen: frozenset[str] = frozenset()
        self._wrote, self._changed = asyncio.Event(), asyncio.Event()
        self.now: frozenset[str] = frozenset()
        """The paths of the files that are refused."""

    def wrote(self, files: Mapping[str, bytes]) -> None:
        """These are the gateway's files now."""
        documents = {path: json.loads(content) for path, content in files.items() if path.endswith(".json")}
        self._versions = {path: each[VERSION] for path, each in documents.items() if VERSION in each}
        self._wrote.set()

    async def changed(self) -> None:
        """Returns when other files are refused than before."""
        await self._changed.wait()
        self._changed.clear()

    async def run(self) -> None:
        """Looks after every write, and as long as something is refused; for ever."""
        while True:
            if not self._seen:
                await self._wrote.wait()
            self._wrote.clear()
            for pause_s in _LOOKS_S:
                await self._clock.sleep(pause_s)
                await self._look()

    async def _look(self) -> None:
        try:
            names = "|".join(each.lstrip(".") for each in (_IN_FORCE, *_COUNTS))
            found = refused(await self._envoy.statistics(rf"\.({names})$"), self._versions)
        except (OSError, ValueError, LookupError, HTTPException):
            return  # it starts, or is gone: what it has refused is not known
        now, self._seen = found & self._seen, found
        if now != self.now:
            self.now = now
            self._changed.set()
            if now:
                log.error("gateway's files refused by Envoy, which goes on with what it had", files=sorted(now))
            else:
                log.info("gateway's files accepted by Envoy again")


def _path(subscription: str) -> str:
    """The file that a subscription follows; empty for what follows none of ours."""
    for prefix, folder in _FOLDERS.items():
        if subscription.startswith(prefix):
            return f"{folder}{subscription.removeprefix(prefix)}.json"
    return _FILES.get(subscription, "")
