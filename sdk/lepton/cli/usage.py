"""`lepton usage`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

import typer

from lepton.cli.command import command
from lepton.cli.output import Column, as_dict
from lepton.cli.shell import Shell
from lepton.cli.spans import seconds

app = typer.Typer()
_BARS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = " "
_WIDTH: Final = 30
_UNITS: Final = {
    "cpu_milli": ("cores", 1000),
    "memory_bytes": ("GiB", 1 << 30),
    "storage_bytes": ("GiB", 1 << 30),
    "network_mbps": ("Mbit/s", 1),
    "device_milli": ("devices", 1000),
}


@command(app, "usage")
async def usage(
    shell: Shell,
    name: Annotated[
        str, typer.Argument(help="A pool's id, or pools/POOL, pools/POOL/nodes/NODE, queues/QUEUE, projects/PROJECT.")
    ],
    since: Annotated[str, typer.Option(help="How far back, for example 30m, 6h or 7d.")] = "1h",
    step: Annotated[str, typer.Option(help="Of how much time each point is the mean; as fine as is kept.")] = "0s",
) -> int | None:
    """Show how something is used: what is allocated, really used and waited for, the trend, and what limits it.

    lepton usage general

    lepton usage queues/research --since 7d -o json
    """
    back_s, step_s = seconds(since, "--since"), seconds(step, "--step")
    async with shell.client() as client:
        answer = await client.usage.get(name, since=timedelta(seconds=back_s), step_s=step_s)
    if not shell.printer.is_for_people:
        shell.printer.document(as_dict(answer))
        return None
    shell.printer.many(answer.series, _columns(back_s))
    shell.printer.text(answer.message)
    return None


def sparkline(points: Sequence[tuple[float, float]], start: float, end: float, top: float, width: int = _WIDTH) -> str:
    """Values over time as bars from 0 to `top`, the mean of each part of the time; a gap where there is none."""
    sums, counts = [0.0] * width, [0] * width
    for time, value in points:
        at = min(width - 1, max(0, int((time - start) / max(end - start, 1e-9) * width)))
        sums[at] += value
        counts[at] += 1
    highest = len(_BARS) - 1
    return "".join(
        _BARS[min(highest, max(0, round(sums[at] / counts[at] / top * highest)))] if counts[at] and top > 0 else _GAP
        for at in range(width)
    )


def _columns(back_s: int) -> Sequence[Column]:
    return (
        Column("RESOURCE", lambda each: str(each.resource)),
        Column("CAPACITY", lambda each: _amount(each, each.capacity) if each.capacity else "-"),
        Column("ALLOCATED", lambda each: _last(each, "allocated")),
        Column("USED", lambda each: _last(each, "used")),
        Column("WAITED FOR", lambda each: _last(each, "wanted")),
        Column("PER HOUR", lambda each: f"{100 * each.trend_per_hour:+.1f} %" if each.capacity else "-"),
        Column("IN USE", lambda each: _line(each, back_s)),
    )


def _line(series: Any, back_s: int) -> str:
    points = [(each.time.ToNanoseconds() / 1e9, max(each.allocated, each.used)) for each in series.points]
    if not points:
        return ""
    end = points[-1][0]
    return sparkline(points, end - back_s, end, series.capacity or max(value for _, value in points)).lstrip(_GAP)


def _last(series: Any, field: str) -> str:
    return _amount(series, getattr(series.points[-1], field)) if series.points else "-"


def _amount(series: Any, value: float) -> str:
    unit, size = _UNITS.get(series.resource, ("", 1))
    return f"{float(f'{value / size:.4g}'):.12g} {unit}".strip()
