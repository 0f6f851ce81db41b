"""What stays of a journal that has grown too large: its beginning and end, and thinner measurements; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from services.trainer.thinning import leading, thinned

Line = dict[str, Any]
TRAINER: Final = -1
"""The rank of a line that no rank has printed."""


class Part(StrEnum):
    """What a line of a journal is; each part has a limit of its own, so that none displaces another."""

    OUTPUT = "output"
    MEASUREMENTS = "measurements"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many bytes each part of one journal may take."""

    output: int = 32 << 20
    measurements: int = 24 << 20
    events: int = 8 << 20

    @classmethod
    def of(cls, most_bytes: int) -> "Limits":
        """A journal's bytes, divided."""
        return cls(output=most_bytes // 2, measurements=3 * most_bytes // 8, events=most_bytes // 8)

    def exceeded(self, sizes: Mapping[Part, int]) -> bool:
        """Whether a journal of these sizes must be cut."""
        return any(size > getattr(self, part.value) for part, size in sizes.items())


def part_of(line: Line) -> Part:
    """Which part of a journal a line belongs to."""
    if "text" in line:
        return Part.OUTPUT
    return Part.MEASUREMENTS if "values" in line else Part.EVENTS


def shortened(lines: Sequence[tuple[Line, int]], limits: Limits) -> list[Line]:
    """The lines that stay, given each with its size in bytes; a part that is too large comes down to half its limit.

    Of the output the first and the last lines stay, and one line says what was dropped between them.
    """
    kept: dict[int, Line] = {}
    for part in Part:
        members = [(line, size) for line, size in lines if part_of(line) is part]
        limit = getattr(limits, part.value)
        if sum(size for _, size in members) <= limit:
            chosen = [line for line, _ in members]
        elif part is Part.OUTPUT:
            chosen = _head_and_tail(members, head=limit // 8, tail=3 * limit // 8, limit=limit)
        elif part is Part.MEASUREMENTS:
            chosen = _thinner(members, limit)
        else:
            chosen = _newest(members, limit // 2)
        kept.update((line["offset"], line) for line in chosen)
    return [kept[offset] for offset in sorted(kept)]


def _thinner(members: Sequence[tuple[Line, int]], limit: int) -> list[Line]:
    few = thinned(
        members,
        len(members) // 2,
        series=lambda member: _series(member[0]),
        value=lambda member: leading(member[0]["values"]),
    )
    if sum(size for _, size in few) > 3 * limit // 4:  # a few are very large
        return _newest(few, limit // 2)
    return [line for line, _ in few]


def _series(line: Line) -> tuple[int, tuple[str, ...]]:
    return line["generation"], tuple(sorted(line["values"]))


def _newest(members: Sequence[tuple[Line, int]], most: int) -> list[Line]:
    size, begin = 0, len(members)
    while begin > 0 and (begin == len(members) or size + members[begin - 1][1] <= most):
        begin -= 1
        size += members[begin][1]
    return [line for line, _ in members[begin:]]


def _head_and_tail(members: Sequence[tuple[Line, int]], *, head: int, tail: int, limit: int) -> list[Line]:
    first: list[Line] = []
    size = 0
    for line, length in members:
        size += length
        if size > head or "dropped_lines" in line:
            break
        first.append(line)
    last = _newest(members[len(first) :], tail)
    between = members[len(first) : len(members) - len(last)]
    return [*first, *([_notice(between, limit)] if between else []), *last]


def _notice(between: Sequence[tuple[Line, int]], limit: int) -> Line:
    lines = sum(line.get("dropped_lines", 1) for line, _ in between)
    size = sum(line.get("dropped_bytes", length) for line, length in between)
    end = between[-1][0]
    words = (
        f"[lepton] {lines} lines ({size / (1 << 20):.1f} MiB) were dropped here: "
        f"the output that is kept of a job is limited to {limit / (1 << 20):g} MiB"
    )
    place = {name: end[name] for name in ("offset", "generation", "time")}
    return {**place, "rank": TRAINER, "text": words, "dropped_lines": lines, "dropped_bytes": size}
