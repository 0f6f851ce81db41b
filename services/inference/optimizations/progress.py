"""What the workloads of an optimisation, and the reports that they leave, mean for it; pure."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.optimization_pb2 import Measurement, Optimization, OptimizationVariant
from lepton.scheduler.v1.workload_pb2 import Slice, Workload
from services.inference.compress.figures import Figures, Report
from services.inference.compress.selection import Candidate, Rule, Target, broken, propose

Variant = OptimizationVariant
OVER: Final = frozenset({Variant.ACCEPTED, Variant.REFUSED, Variant.NOT_APPLICABLE, Variant.FAILED, Variant.CANCELLED})
"""The states in which a variant stays."""
ENDED: Final = frozenset({Optimization.SUCCEEDED, Optimization.FAILED, Optimization.CANCELLED})
"""The states in which an optimisation stays until it is deleted."""
_SAID: Final = re.compile(r"(\d{1,3})% (.+)", re.DOTALL)
_TARGETS: Final[Mapping[int, Target]] = {
    Optimization.TARGET_UNSPECIFIED: Target.LATENCY,
    Optimization.LATENCY: Target.LATENCY,
    Optimization.THROUGHPUT: Target.THROUGHPUT,
    Optimization.SIZE: Target.SIZE,
}


def observe(variant: Variant, workload: Workload) -> None:
    """Brings a variant that is not over to where its workload is; of a success the report is what counts."""
    variant.workload = workload.name
    if workload.state in {Workload.FAILED, Workload.CANCELLED}:
        variant.state = Variant.FAILED if workload.state == Workload.FAILED else Variant.CANCELLED
        variant.message = workload.message or "its workload ended"
        return
    running = [piece for piece in workload.slices if piece.state in {Slice.RUNNING, Slice.READY}]
    variant.state = Variant.RUNNING if running else Variant.PENDING
    variant.message = "" if running else workload.message
    for piece in running:
        if said := _SAID.fullmatch(piece.message):
            variant.percent, variant.phase = min(float(said[1]), 100.0), said[2]


def take(variant: Variant, report: Report, rule: Rule) -> None:
    """Takes note of a variant's report: it is over."""
    variant.percent, variant.phase = 100.0, ""
    if report.figures is None or report.original is None:
        variant.state, variant.message = Variant.NOT_APPLICABLE, report.not_applicable
        return
    variant.measurement.CopyFrom(measurement(report.figures))
    variant.original.CopyFrom(measurement(report.original))
    variant.package, variant.engine_key = report.package, report.engine_key
    problem = broken(Candidate(name=report.variant, figures=report.figures, original=report.original), rule)
    variant.state = Variant.REFUSED if problem else Variant.ACCEPTED
    variant.message = problem or "; ".join(report.notes)


def conclude(optimization: Optimization, now: Timestamp) -> None:
    """Brings the optimisation to where its variants are; once all are over it is too, and the best is proposed."""
    variants = optimization.variant_states
    optimization.percent = sum(100.0 if each.state in OVER else each.percent for each in variants) / len(variants)
    is_over = all(each.state in OVER for each in variants)
    candidates = [_candidate(each) for each in variants if each.HasField("measurement")]
    verdict = propose(candidates, rule_of(optimization), _TARGETS[optimization.target])
    for each in variants:
        each.is_pareto = each.variant in verdict.pareto
    if candidates:
        optimization.original.CopyFrom(next(each.original for each in variants if each.HasField("measurement")))
    if not is_over:
        if optimization.state in {Optimization.PENDING, Optimization.RUNNING}:
            begun = any(each.state != Variant.PENDING for each in variants)
            optimization.state = Optimization.RUNNING if begun else Optimization.PENDING
            optimization.message = _counts(optimization)
        return
    if optimization.state == Optimization.CANCELLING:
        optimization.state, optimization.message = Optimization.CANCELLED, "it was stopped on request"
    elif candidates:
        optimization.state, optimization.message = Optimization.SUCCEEDED, verdict.reason
        _mark(optimization, verdict.name)
    else:
        why = next((each.message for each in variants if each.message), "")
        optimization.state = Optimization.FAILED
        optimization.message = f"no variant could be measured: {why}"
    optimization.end_time.CopyFrom(now)


def rule_of(optimization: Optimization) -> Rule:
    """The rule as a value."""
    rule = optimization.rule
    return Rule(max_accuracy_drop=rule.max_accuracy_drop, max_bytes=rule.max_bytes, max_size_ratio=rule.max_size_ratio)


def measurement(figures: Figures) -> Measurement:
    """Figures as a message."""
    return Measurement(**asdict(figures))


def _candidate(variant: Variant) -> Candidate:
    return Candidate(name=variant.variant, figures=_figures(variant.measurement), original=_figures(variant.original))


def _figures(measured: Measurement) -> Figures:
    return Figures(**{name: getattr(measured, name) for name in Figures.__dataclass_fields__})


def _mark(optimization: Optimization, name: str) -> None:
    for each in optimization.variant_states:
        each.is_proposed = each.variant == name
        if each.is_proposed:
            optimization.proposed, optimization.proposed_package = each.variant, each.package


def _counts(optimization: Optimization) -> str:
    variants = optimization.variant_states
    over = sum(each.state in OVER for each in variants)
    running = sum(each.state == Variant.RUNNING for each in variants)
    return f"{over} of {len(variants)} variants measured, {running} at work"
