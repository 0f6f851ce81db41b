"""How much callers may ask of a deployment, as people type it and as it is shown."""

from dataclasses import dataclass, fields
from typing import Annotated, Final

import typer
from google.protobuf.duration_pb2 import Duration

from lepton.inference.v1.call_limits_pb2 import CallLimits

_PANEL: Final = "Limits of calls (0 = as if never given)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """The limits that are given; those that are not stay as they are."""

    max_rate: Annotated[
        float | None,
        typer.Option(min=0.0, help="Calls a second, of all callers together.", rich_help_panel=_PANEL),
    ] = None
    max_rate_per_caller: Annotated[
        float | None, typer.Option(min=0.0, help="Calls a second, of each principal.", rich_help_panel=_PANEL)
    ] = None
    burst: Annotated[
        float | None,
        typer.Option(min=0.0, help="So many seconds' worth of calls may come at once; else 1.", rich_help_panel=_PANEL),
    ] = None
    max_in_flight: Annotated[
        int | None, typer.Option(min=0, help="Calls at one revision at once; else 4096.", rich_help_panel=_PANEL)
    ] = None
    max_deadline: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds after which a call ends, whatever it asks for.", rich_help_panel=_PANEL),
    ] = None
    max_stream: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds until a stream ends; else 3600.", rich_help_panel=_PANEL),
    ] = None

    @property
    def are_given(self) -> bool:
        """Whether anything is to change."""
        return any(getattr(self, each.name) is not None for each in fields(self))

    def over(self, current: CallLimits) -> CallLimits:
        """The limits that a deployment has, with what is given in their place."""
        made = CallLimits()
        made.CopyFrom(current)
        if self.max_rate is not None:
            made.requests_per_second = self.max_rate
        if self.max_rate_per_caller is not None:
            made.requests_per_second_per_caller = self.max_rate_per_caller
        if self.max_in_flight is not None:
            made.max_in_flight = self.max_in_flight
        if self.burst is not None:
            _put(made.burst, self.burst) if self.burst else made.ClearField("burst")
        if self.max_deadline is not None:
            _put(made.max_deadline, self.max_deadline) if self.max_deadline else made.ClearField("max_deadline")
        if self.max_stream is not None:
            _put(made.max_stream, self.max_stream) if self.max_stream else made.ClearField("max_stream")
        return made


def limit_lines(limits: CallLimits) -> list[str]:
    """The limits in words; nothing where there are none."""
    found = []
    if limits.requests_per_second:
        found.append(f"{limits.requests_per_second:g} calls/s")
    if limits.requests_per_second_per_caller:
        found.append(f"{limits.requests_per_second_per_caller:g} calls/s of each caller")
    if limits.max_in_flight:
        found.append(f"{limits.max_in_flight} calls at once")
    for name, words in (("burst", "bursts of"), ("max_deadline", "calls of"), ("max_stream", "streams of")):
        if limits.HasField(name):  # type: ignore[arg-type]
            found.append(f"{words} {getattr(limits, name).ToNanoseconds() / 1e9:g} s")
    return [f"at most {', '.join(found)}"] if found else []


def _put(field: Duration, seconds: float) -> None:
    field.FromNanoseconds(round(seconds * 1e9))
