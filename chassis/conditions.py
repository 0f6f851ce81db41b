"""Conditions of grants: what a request asks for beside its permission, and when; pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lepton.policy.v1 import condition_pb2

EVERY_DAY: Final = frozenset(range(1, 8))
_DAYS: Final = ("", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY
_SHOWN: Final = 80  # characters of what a request names


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What a request asks for, as conditions look at it. None: requests of its kind say nothing about that."""

    pools: tuple[str, ...] | None = None  # by name; none: any pool whatever
    priority: int | None = None
    minute: int | None = None  # since 1970, UTC, to ask about another time than now


NO_ATTRIBUTES: Final = Attributes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Hours of days of the week in a time zone. Ends that are not after the start lie on the next day."""

    days: frozenset[int] = EVERY_DAY  # ISO: Monday is 1; on which it begins
    start: int  # minutes of the day
    end: int
    zone: str

    def holds(self, minute: int) -> bool:
        """Whether a minute (since 1970, UTC) is within. A zone that this machine does not know never is."""
        local = _local(self.zone, minute)
        if local is None:
            return False
        day, at = local
        if self.start < self.end:
            return day in self.days and self.start <= at < self.end
        before = day - 1 or 7
        return (day in self.days and at >= self.start) or (before in self.days and at < self.end)

    def next_change(self, minute: int) -> int:
        """The next minute at which it begins or ends; a week on at the latest, when it is to be asked again."""
        last, holds, at = minute + _WEEK, self.holds(minute), minute
        while at < last:
            at = self._next_look(at)
            if self.holds(at) is not holds:
                return at
        return last

    def _next_look(self, minute: int) -> int:
        """Between a minute and this one nothing can change: the clock there meets neither an end nor a jump."""
        local = _local(self.zone, minute)
        if local is None:
            return minute + _WEEK
        ahead = min((end - local[1]) % _DAY or _DAY for end in (self.start, self.end))
        return _jump(self.zone, minute, minute + ahead) or minute + ahead

    def __str__(self) -> str:
        return f"{_days(self.days)} {_clock(self.start)}-{_clock(self.end)} {self.zone}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """All of it must hold; what is not set holds always."""

    pools: frozenset[str] = frozenset()
    max_priority: int | None = None
    windows: tuple[Window, ...] = ()

    def unmet(self, attributes: Attributes, minute: int) -> str:
        """What of it a request does not meet, in words; empty when it meets all."""
        asked = attributes.pools
        if self.pools and asked is not None:
            if not asked:
                return f"it names no pool; name one of {_listed(self.pools)}"
            for pool in asked:
                if pool not in self.pools:
                    return f"{pool[:_SHOWN]} is none of {_listed(self.pools)}"
        priority = attributes.priority
        if self.max_priority is not None and priority is not None and priority > self.max_priority:
            return f"priority {priority} is above {self.max_priority}"
        if self.windows and not any(window.holds(minute) for window in self.windows):
            return f"it is not within {' or '.join(map(str, self.windows))}"
        return ""

    def __str__(self) -> str:
        parts = [f"in {_listed(self.pools)}"] if self.pools else []
        if self.max_priority is not None:
            parts.append(f"priority at most {self.max_priority}")
        if self.windows:
            parts.append(" or ".join(map(str, self.windows)))
        return "; ".join(parts)


def condition_of(message: condition_pb2.Condition) -> Condition | None:
    """The condition that a message describes; None for one that always holds. ValueError for times that are none."""
    condition = Condition(
        pools=frozenset(message.pools),
        max_priority=message.max_priority if message.HasField("max_priority") else None,
        windows=tuple(map(_window, message.windows)),
    )
    return condition if condition != Condition() else None


def is_zone(name: str) -> bool:
    """Whether this machine knows a time zone."""
    return _zone(name) is not None


def _window(message: condition_pb2.TimeWindow) -> Window:
    days: frozenset[int] = frozenset(message.days)
    return Window(
        days=days or EVERY_DAY, start=_minutes(message.start), end=_minutes(message.end), zone=message.time_zone
    )


def _minutes(clock: str) -> int:
    hours, _, minutes = clock.partition(":")
    return int(hours) * 60 + int(minutes)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _days(days: frozenset[int]) -> str:
    """Runs of days as people write them: Mon-Fri, Sat."""
    if len(days) == 7:
        return "daily"
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ",".join(_DAYS[run[0]] if len(run) == 1 else f"{_DAYS[run[0]]}-{_DAYS[run[-1]]}" for run in runs)


def _listed(pools: Iterable[str]) -> str:
    return ", ".join(sorted(pools))


@lru_cache(maxsize=256)
def _local(zone: str, minute: int) -> tuple[int, int] | None:
    """The ISO day of the week and the minute of the day there."""
    known = _zone(zone)
    if known is None:
        return None
    there = datetime.fromtimestamp(minute * 60, known)
    return there.isoweekday(), there.hour * 60 + there.minute


def _jump(zone: str, after: int, until: int) -> int | None:
    """The minute in (after, until] at which the clock there is set forth or back; None where it is not."""
    known = _zone(zone)
    if known is None:
        return None

    def offset(minute: int) -> timedelta | None:
        return datetime.fromtimestamp(minute * 60, known).utcoffset()

    before = offset(after)
    if offset(until) == before:
        return None
    while until - after > 1:
        middle = (after + until) // 2
        after, until = (middle, until) if offset(middle) == before else (after, middle)
    return until


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # no such file, a path, a folder
        return None
