"""Counts refusals that are alike: the first is recorded at once, the others of the next seconds as one."""

from dataclasses import dataclass
from typing import Final

from lepton.internal.v1.audit_feed_pb2 import AuditEntry

WINDOW_S: Final = 5.0
_MOST: Final = 1000

_Key = tuple[str, str, str, str]


@dataclass(slots=True)
class _Run:
    until: float
    entry: AuditEntry  # the newest that was not recorded
    count: int = 0


class Repeats:
    """Keeps whoever is refused ten thousand times a second from filling the log, and loses none of the count."""

    def __init__(self) -> None:
        self._runs: dict[_Key, _Run] = {}

    @property
    def waits(self) -> bool:
        """Whether a window is open."""
        return bool(self._runs)

    def take(self, entry: AuditEntry, now: float) -> AuditEntry | None:
        """The entry, when it is to be recorded now; None when it is counted."""
        caller = entry.actor or entry.source.rpartition(":")[0]
        key = (caller, entry.action, entry.resource, entry.reason)
        run = self._runs.get(key)
        if run is None and len(self._runs) >= _MOST:
            # Somebody goes through names: from here on only what was tried is told apart.
            key = ("", entry.action, "", entry.reason)
            entry.resource = ""
            run = self._runs.get(key)
        if run is None:
            self._runs[key] = _Run(now + WINDOW_S, entry)
            return entry
        run.entry, run.count = entry, run.count + 1
        return None

    def due(self, now: float) -> list[AuditEntry]:
        """What was counted, of windows that are over."""
        over = [key for key, run in self._runs.items() if run.until <= now]
        found = []
        for key in over:
            run = self._runs.pop(key)
            if run.count:
                run.entry.count = run.count
                found.append(run.entry)
        return found
