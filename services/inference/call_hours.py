"""Owns when the gateway's rules change though the policy does not: when hours of grants begin or end."""

import asyncio
from collections.abc import Callable
from typing import Final

from chassis.access import PolicySnapshot
from chassis.clock import Clock, wait_for_event
from chassis.logs import logger
from services.inference.envoy.access import CallRules, call_rules, next_change

log = logger(__name__)

_MINUTE_S: Final = 60
_LOOK_S: Final = 60.0
"""So long it takes at the most to see that the clock was set, or the machine has slept."""

Listener = Callable[[PolicySnapshot, CallRules], None]


class CallHours:
    """Makes rules for calls of each policy, and again of the same when a window opens or ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listeners: list[Listener] = []
        self._snapshot: PolicySnapshot | None = None
        self._from = 0
        self._until: int | None = None
        self._changed = asyncio.Event()

    def on_change(self, listener: Listener) -> None:
        """Call this with the rules whenever they may be others."""
        self._listeners.append(listener)

    def use(self, snapshot: PolicySnapshot) -> None:
        """Make the rules of this policy from now on."""
        self._snapshot = snapshot
        self._make(snapshot, self._minute())
        self._changed.set()

    async def run(self) -> None:
        """For ever: at each minute when a window that matters opens or ends, make the rules anew."""
        while True:
            self._changed.clear()
            minute = self._minute()
            if self._snapshot is not None and not self._are_good(minute):
                log.info("hours of grants have begun or ended", revision=self._snapshot.revision)
                self._make(self._snapshot, minute)
            await wait_for_event(self._changed, self._pause_s(), self._clock)

    def _make(self, snapshot: PolicySnapshot, minute: int) -> None:
        self._from, self._until = minute, next_change(snapshot, minute)
        rules = call_rules(snapshot, minute)
        for listener in self._listeners:
            listener(snapshot, rules)

    def _are_good(self, minute: int) -> bool:
        return self._until is None or self._from <= minute < self._until

    def _pause_s(self) -> float:
        if self._until is None:
            return _LOOK_S
        return min(self._until * _MINUTE_S - self._clock.now().timestamp(), _LOOK_S)

    def _minute(self) -> int:
        return int(self._clock.now().timestamp() // _MINUTE_S)
