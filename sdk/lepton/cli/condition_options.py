"""Conditions of grants as people type them and as they are shown: pools, the highest priority, hours."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from lepton.auth.v1.access_service_pb2 import RequestAttributes
from lepton.client.pools import pool_name
from lepton.policy.v1.condition_pb2 import Condition, TimeWindow

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_HOURS: Final = re.compile(r"(?:(?P<days>[A-Za-z,-]+) +)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d) +(?P<zone>\S+)")
_FORM: Final = "write [DAYS] HH:MM-HH:MM ZONE, for example 'Mon-Fri 08:00-18:00 Europe/Berlin'"
_PANEL: Final = "Only on a condition"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionOptions:
    """What a grant is to depend on."""

    pool: Annotated[
        list[str] | None,
        typer.Option(help="What asks for machines must name pools, and only these.", rich_help_panel=_PANEL),
    ] = None
    max_priority: Annotated[
        int | None,
        typer.Option(min=-1000, max=1000, help="... and a priority of at most this.", rich_help_panel=_PANEL),
    ] = None
    hours: Annotated[
        list[str] | None,
        typer.Option(
            help="[DAYS] HH:MM-HH:MM ZONE; may be given again. What is open when they end, ends.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    def condition(self) -> Condition | None:
        """The condition; None where none is given."""
        condition = Condition(
            pools=[pool_name(each) for each in self.pool or ()],
            max_priority=self.max_priority,
            windows=[window(each) for each in self.hours or ()],
        )
        return condition if condition != Condition() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedOptions:
    """The request that a question of access is about."""

    pool: Annotated[list[str] | None, typer.Option(help="A pool that the request would name.")] = None
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="The priority that it would have.")] = 0
    at: Annotated[str, typer.Option(help="When it would be made: 2026-06-08T09:30+02:00. Default: now.")] = ""

    def attributes(self) -> RequestAttributes:
        """What conditions look at."""
        asked = RequestAttributes(pools=[pool_name(each) for each in self.pool or ()], priority=self.priority)
        if self.at:
            asked.time.FromDatetime(_time(self.at))
        return asked


def window(text: str) -> TimeWindow:
    """Hours, as they are typed."""
    found = _HOURS.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} in --hours: {_FORM}")
    days = _days(found["days"] or "daily", text)
    return TimeWindow(days=days, start=found["start"], end=found["end"], time_zone=found["zone"])


def shown_condition(condition: Condition) -> str:
    """A condition, as it is typed."""
    parts = [f"in {', '.join(condition.pools)}"] if condition.pools else []
    if condition.HasField("max_priority"):
        parts.append(f"priority at most {condition.max_priority}")
    if condition.windows:
        parts.append(" or ".join(map(_shown_window, condition.windows)))
    return "; ".join(parts)


def _days(text: str, whole: str) -> Sequence[TimeWindow.Day.ValueType]:
    if text.lower() == "daily":
        return ()
    days: list[TimeWindow.Day.ValueType] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            start, end = (_DAYS.index(day.capitalize()) for day in (first, last or first))
        except ValueError:
            raise typer.BadParameter(f"{part!r} in --hours {whole!r}: days are {', '.join(_DAYS)}; {_FORM}") from None
        span = (end - start) % len(_DAYS) + 1
        numbers = ((start + at) % len(_DAYS) + 1 for at in range(span))
        days += [TimeWindow.Day.ValueType(number) for number in numbers]
    return sorted(set(days))


def _shown_window(each: TimeWindow) -> str:
    days = ",".join(_DAYS[day - 1] for day in each.days) or "daily"
    return f"{days} {each.start}-{each.end} {each.time_zone}"


def _time(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} in --at: write 2026-06-08T09:30+02:00") from None
    return given.astimezone(UTC)
