"""What the lines of a journal say: how events are written, and how output and measurements are read from them."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.internal.v1.run_report_pb2 import RunEvent
from lepton.trainer.v1.trainer_service_pb2 import LogLine, MetricPoint
from services.trainer.journal_file import Source
from services.trainer.journal_limits import TRAINER
from services.trainer.thinning import leading, thinned

_MESSAGE_POINTS: Final = 1000


def written(source: Source, event: RunEvent) -> bytes:
    """An event as a line."""
    kind = event.WhichOneof("event")
    body: dict[str, Any] = {}
    if kind == "output":
        body = {"text": event.output.text}
        if event.output.is_stderr:
            body["stderr"] = True
    elif kind == "measurement":
        measured = event.measurement
        body = {"step": measured.step, "epoch": measured.epoch, "values": dict(measured.values)}
    elif kind == "checkpoint_failed":
        body = {"kind": kind, "text": f"[lepton] checkpoint not written: {event.checkpoint_failed}", "stderr": True}
    elif kind is not None:
        body = {"kind": kind}
    head = {
        "generation": source.generation,
        "rank": source.rank,
        "sequence": event.sequence,
        "time": event.time.ToMicroseconds(),
    }
    return json.dumps({**head, **body}, separators=(",", ":")).encode() + b"\n"


def log_line(line: dict[str, Any]) -> LogLine | None:
    """A line as output of a rank; None when it is something else."""
    if "text" not in line:
        return None
    return LogLine(
        offset=line["offset"],
        rank=line["rank"],
        generation=line["generation"],
        is_stderr=line.get("stderr", False),
        text=line["text"],
        time=_stamp(line["time"]),
    )


def metric_point(line: dict[str, Any]) -> MetricPoint | None:
    """A line as a measurement; None when it is something else."""
    if "values" not in line:
        return None
    return MetricPoint(
        offset=line["offset"],
        step=line["step"],
        epoch=line["epoch"],
        generation=line["generation"],
        values=line["values"],
        time=_stamp(line["time"]),
    )


def printed_by(ranks: Iterable[int]) -> Callable[[dict[str, Any]], bool]:
    """Whether a line is output of one of these ranks, or of any when there are none, or says what was dropped."""
    wanted = frozenset(ranks)
    return lambda line: "text" in line and (not wanted or line["rank"] in wanted or line["rank"] == TRAINER)


def thinned_points(points: Sequence[MetricPoint], most: int) -> list[MetricPoint]:
    """About `most` points, which look like all of them."""
    return thinned(
        points,
        most,
        series=lambda point: (point.generation, tuple(sorted(point.values))),
        value=lambda point: leading(dict(point.values)),
    )


def batched(points: Sequence[MetricPoint]) -> Iterator[Sequence[MetricPoint]]:
    """The points, as many at a time as a message may hold."""
    for begin in range(0, len(points), _MESSAGE_POINTS):
        yield points[begin : begin + _MESSAGE_POINTS]


def _stamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
