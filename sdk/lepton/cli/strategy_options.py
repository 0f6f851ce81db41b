"""How a deployment goes over to another version: the options of commands, and the strategy that they make."""

from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from lepton.inference.v1.rollout_pb2 import BlueGreen, Canary, RollbackPolicy, RollingUpdate, Strategy

CanaryOption = Annotated[
    str,
    typer.Option(
        "--canary",
        metavar="PERCENT[,PERCENT..]",
        help="First a share of the calls, in steps: `10,50`; 0 = only calls with the header `lepton-revision`.",
    ),
]
HoldOption = Annotated[float, typer.Option(min=0.0, help="Seconds that each step of a canary lasts.")]
ManualOption = Annotated[
    bool, typer.Option("--manual", help="Each step waits for `lepton deployments rollout promote`.")
]
BlueGreenOption = Annotated[
    bool, typer.Option("--blue-green", help="All new replicas beside the old ones, then all calls at once.")
]
KeepOption = Annotated[
    float, typer.Option("--keep-old", min=0.0, help="Seconds that blue/green keeps the old replicas after the change.")
]
SurgeOption = Annotated[
    int | None,
    typer.Option("--max-surge", min=1, max=1000, help="Rolling: replicas beyond those wanted; default: 25 %."),
]
GateOption = Annotated[
    bool, typer.Option("--gate", help="Compare the new version with the old one before it gets calls.")
]
DifferenceOption = Annotated[
    float | None, typer.Option("--max-difference", min=0.0, help="Gate: the largest difference of an output.")
]
AgreementOption = Annotated[
    float | None, typer.Option("--min-agreement", min=0.0, max=1.0, help="Gate: the share of equal labels; 0.95.")
]
AccuracyOption = Annotated[
    float | None, typer.Option("--max-accuracy-drop", min=0.0, max=1.0, help="Gate: accuracy that may be lost; 0.01.")
]
LatencyOption = Annotated[
    float | None,
    typer.Option("--max-latency-ratio", min=0.0, help="Gate and rollback: new latency over old; 2."),
]
ErrorsOption = Annotated[
    float | None,
    typer.Option("--max-error-ratio", min=0.0, max=1.0, help="Rollback: share of calls that may fail beyond; 0.01."),
]
WindowOption = Annotated[float, typer.Option("--window", min=0.0, help="Rollback: seconds looked at; 0 = 60.")]


def strategy(
    *,
    canary: str,
    hold: float,
    manual: bool,
    blue_green: bool,
    keep_old: float,
    max_surge: int | None,
    gate: bool,
    max_difference: float | None,
    min_agreement: float | None,
    max_accuracy_drop: float | None,
    max_latency_ratio: float | None,
    max_error_ratio: float | None,
    window: float,
) -> Strategy | None:
    """The strategy that the options describe; None when none was given. Raises BadParameter."""
    if bool(canary) + blue_green + (max_surge is not None) > 1:
        raise typer.BadParameter("give one of --canary, --blue-green and --max-surge")
    bounds = {
        "max_output_difference": max_difference,
        "min_label_agreement": min_agreement,
        "max_accuracy_drop": max_accuracy_drop,
    }
    is_gated = gate or any(value is not None for value in bounds.values())
    made = Strategy()
    if is_gated:
        made.gate.SetInParent()
        for name, value in {**bounds, "max_latency_ratio": max_latency_ratio}.items():
            if value is not None:
                setattr(made.gate, name, value)
    if canary:
        steps = [
            Canary.Step(weight=weight, hold=_duration(hold), manual=manual, gate=is_gated)
            for weight in _weights(canary)
        ]
        made.canary.CopyFrom(Canary(steps=steps))
    elif blue_green:
        made.blue_green.CopyFrom(BlueGreen(manual=manual, keep_old=_duration(keep_old)))
    elif max_surge is not None:
        made.rolling.CopyFrom(RollingUpdate(max_surge=max_surge))
    policy = RollbackPolicy()
    if max_latency_ratio is not None:
        policy.max_latency_ratio = max_latency_ratio
    if max_error_ratio is not None:
        policy.max_error_ratio = max_error_ratio
    if window:
        policy.window.CopyFrom(_duration(window))
    if policy.ListFields():
        made.rollback.CopyFrom(policy)
    return made if made.ListFields() else None


def _weights(text: str) -> list[int]:
    try:
        weights = [int(part.strip().rstrip("%")) for part in text.split(",")]
    except ValueError:
        weights = [-1]
    if any(not 0 <= weight <= 100 for weight in weights):
        raise typer.BadParameter(f"--canary takes percentages such as 10,50, not {text!r}")
    return weights


def _duration(seconds: float) -> Duration:
    made = Duration()
    made.FromMilliseconds(round(seconds * 1000))
    return made
