"""Arrays of tasks as people write and read them: `0-999%50`, `3,17-19`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer

from lepton.scheduler.v1.workload_pb2 import TaskArray

FORM: Final = "COUNT, FIRST-LAST, or either with %AT_ONCE"
_ARRAY: Final = re.compile(r"(?:(\d{1,10})-)?(\d{1,10})(?:%(\d{1,5}))?", re.ASCII)
_MOST: Final = 100_000
_SHOWN: Final = 20  # runs of indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which tasks, and how many of them at once; 0 = as many as there is room for."""

    first: int
    count: int
    at_once: int = 0


def read(text: str) -> Wish:
    """What `--array` says: `1000`, `0-999` or `0-999%50`."""
    match = _ARRAY.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"--array {text} cannot be read; write {FORM}, for example 0-999%50")
    first, last, at_once = int(match[1] or 0), int(match[2]), int(match[3] or 0)
    count = last - first + 1 if match[1] is not None else last
    if not 1 <= count <= _MOST:
        raise typer.BadParameter(f"--array {text} has {count} tasks; an array has 1 to {_MOST}")
    if match[3] is not None and not at_once:
        raise typer.BadParameter(f"--array {text} lets none run at once; leave %0 out for as many as there is room for")
    return Wish(first=first, count=count, at_once=at_once)


def counts(array: TaskArray) -> str:
    """How the tasks stand, in one line."""
    parts = {"done": array.succeeded, "failed": array.failed, "running": array.running, "waiting": array.waiting}
    if not any(parts.values()):
        return f"{array.task_count} waiting"
    return ", ".join(f"{count} {what}" for what, count in parts.items() if count)


def indices(runs: Sequence[int]) -> str:
    """Runs of first and count as people write them: 3,17-19."""
    pairs = [*zip(runs[::2], runs[1::2], strict=True)]
    shown = ",".join(str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in pairs[:_SHOWN])
    return f"{shown},..." if len(pairs) > _SHOWN else shown


def told(workload: Any) -> list[str]:
    """What is said of an array beside its line in the table."""
    array = workload.array
    if not array.failed:
        return []
    reasons = [f"  {each.index} on {each.node.rpartition('/')[2]}: {each.message}" for each in array.failures[:5]]
    return [f"failed: {indices(array.failed_runs)}", *reasons]
