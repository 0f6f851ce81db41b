"""What a rank's report lines mean: events for the trainer, outputs for the scheduler; anything else is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lepton.artifacts import parse_digest
from lepton.errors import InvalidArgument
from lepton.internal.v1 import run_report_pb2 as pb

_WHY: Final = 4000
PHASES_WITHOUT_STEPS: Final = frozenset({"evaluating", "packaging", "stopped", "finished"})
"""What a rank may do for long without a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEvent:
    """Something for the trainer; with a commit id the rank waits for the answer."""

    event: pb.RunEvent
    commit_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An artifact that the slice produced."""

    name: str
    digest: str


def read(line: Mapping[str, Any]) -> RankEvent | Output:
    """The meaning of one report line; InvalidArgument when it has none."""
    try:
        kind = line["kind"]
        if kind in ("artifact", "output"):
            return Output(name=_text(line["name"]), digest=parse_digest(_text(line["digest"])))
        if kind == "metrics":
            return RankEvent(event=pb.RunEvent(measurement=_measurement(line)))
        if kind == "pace":
            return RankEvent(event=pb.RunEvent(pace=_pace(line)))
        if kind == "checkpoint_failed":
            return RankEvent(event=pb.RunEvent(checkpoint_failed=_text(line["why"])[:_WHY]))
        if kind == "state":
            return RankEvent(event=pb.RunEvent(phase=_text(line["phase"])[:128]))
        if kind == "checkpoint":
            written = pb.CheckpointWritten(
                step=int(line["step"]), manifest=_text(line["manifest"]), metrics=_numbers(line.get("metrics", {}))
            )
            return RankEvent(event=pb.RunEvent(checkpoint=written), commit_id=_text(line["id"]))
        if kind == "package":
            package = pb.PackageWritten(manifest=_text(line["digest"]), metrics=_numbers(line.get("metrics", {})))
            return RankEvent(event=pb.RunEvent(package=package), commit_id=_text(line["id"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _malformed(f"{type(error).__name__}: {error}") from error
    raise _malformed(f"its kind is {kind!r}")


def _measurement(line: Mapping[str, Any]) -> pb.Measurement:
    return pb.Measurement(
        step=int(line["step"]),
        total_steps=int(line.get("total_steps", 0)),
        epoch=int(line.get("epoch", 0)),
        progress=float(line.get("progress", 0.0)),
        values=_numbers(line.get("values", {})),
    )


def _pace(line: Mapping[str, Any]) -> pb.RankPace:
    step_s, busy_s = float(line.get("step_s", 0.0)), float(line.get("busy_s", 0.0))
    if not (0 <= step_s < float("inf") and 0 <= busy_s < float("inf")):
        raise ValueError(f"{step_s} and {busy_s} are not seconds")
    return pb.RankPace(step=int(line["step"]), step_s=step_s, busy_s=busy_s)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name)[:128]: float(value) for name, value in values.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is not a text")
    return value


def _malformed(problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"report": problem})
