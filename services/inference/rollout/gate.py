"""The promotion gate: a comparison of two revisions judged by the bounds that the deployment sets, check by check."""

from collections.abc import Iterator
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.inference.v1.rollout_pb2 import GateVerdict, PromotionGate
from services.inference.rollout.burn import LATENCY_FLOOR_MS
from services.inference.rollout.comparison import Comparison

Check = GateVerdict.Check
MIN_LABEL_AGREEMENT: Final = 0.95
MAX_ACCURACY_DROP: Final = 0.01
MAX_LATENCY_RATIO: Final = 2.0
MAX_ERROR_RATIO: Final = 0.0
MAX_DRIFT: Final = 0.25
"""What credit scoring, where the index comes from, calls a major shift."""
_DRIFT_ROWS: Final = 100
"""With fewer rows the index moves by itself."""
_LABELLED_ROWS: Final = 30
"""With fewer rows one that differs says too much, where the comparison is made again and again."""
_TINY: Final = 1e-9


def judge(comparison: Comparison, gate: PromotionGate, now: Timestamp) -> GateVerdict:
    """Every check that the comparison allows, and the verdict that follows: one that fails refuses the new revision."""
    checks = list(_checks(comparison, gate))
    failed = [check for check in checks if not check.passed]
    verdict = GateVerdict(
        outcome=GateVerdict.REFUSED if failed else GateVerdict.PASSED,
        checks=checks,
        golden_rows=comparison.golden_rows,
        live_requests=comparison.live_requests,
    )
    verdict.time.CopyFrom(now)
    over = f"{verdict.golden_rows} golden rows and {verdict.live_requests} live requests"
    verdict.message = f"refused: {'; '.join(check.message for check in failed)}" if failed else f"passed on {over}"
    return verdict


def drifted(comparison: Comparison, gate: PromotionGate) -> str:
    """How the answers to live requests have drifted from the old ones, in words; empty when they have not."""
    wanted = {GateVerdict.LABEL_AGREEMENT, GateVerdict.DRIFT, GateVerdict.OUTPUT_DIFFERENCE}
    if comparison.labelled_rows < _LABELLED_ROWS:
        wanted.discard(GateVerdict.LABEL_AGREEMENT)
    failed = [each for each in _checks(comparison, gate) if each.measure in wanted and not each.passed]
    return f"live answers have drifted: {'; '.join(each.message for each in failed)}" if failed else ""


def _checks(comparison: Comparison, gate: PromotionGate) -> Iterator[GateVerdict.Check]:
    if comparison.signature:
        yield Check(measure=GateVerdict.SIGNATURE, message=comparison.signature)
        return
    yield Check(measure=GateVerdict.SIGNATURE, passed=True, message="the signatures are the same")
    yield _errors(comparison, gate)
    if gate.HasField("max_output_difference"):
        yield _difference(comparison, gate.max_output_difference)
    agreement = comparison.agreement()
    if agreement is not None:
        yield _agreement(agreement, gate)
    accuracy = comparison.accuracy()
    if accuracy is not None:
        yield _accuracy(*accuracy, gate)
    for measure, quantile in ((GateVerdict.LATENCY_P50, 0.5), (GateVerdict.LATENCY_P90, 0.9)):
        latency = comparison.latency_ms(quantile)
        if latency is not None:
            yield _latency(measure, *latency, gate)
    drift = comparison.drift()
    if drift is not None and comparison.labelled_rows >= _DRIFT_ROWS:
        yield _drift(drift, gate)


def _errors(comparison: Comparison, gate: PromotionGate) -> GateVerdict.Check:
    ratio = comparison.failed / comparison.asked if comparison.asked else 1.0
    limit = gate.max_error_ratio if gate.HasField("max_error_ratio") else MAX_ERROR_RATIO
    first = next((each.problem for each in comparison.pairs if each.candidate is None and each.problem), "")
    said = f"{comparison.failed} of {comparison.asked} requests failed, {limit:.1%} may"
    said = said if comparison.asked else "the old revision answered no request"
    return Check(
        measure=GateVerdict.ERROR_RATIO,
        passed=ratio <= limit,
        candidate=ratio,
        value=ratio,
        limit=limit,
        message=f"{said}: {first}" if first else said,
    )


def _difference(comparison: Comparison, limit: float) -> GateVerdict.Check:
    largest = comparison.largest_difference()
    return Check(
        measure=GateVerdict.OUTPUT_DIFFERENCE,
        passed=largest <= limit,
        value=largest,
        limit=limit,
        message=f"outputs differ by up to {largest:.3g}, {limit:.3g} may be",
    )


def _agreement(agreement: float, gate: PromotionGate) -> GateVerdict.Check:
    limit = gate.min_label_agreement if gate.HasField("min_label_agreement") else MIN_LABEL_AGREEMENT
    return Check(
        measure=GateVerdict.LABEL_AGREEMENT,
        passed=agreement >= limit - _TINY,
        value=agreement,
        limit=limit,
        message=f"{agreement:.1%} of the labels are the same, {limit:.1%} must be",
    )


def _accuracy(stable: float, candidate: float, gate: PromotionGate) -> GateVerdict.Check:
    limit = gate.max_accuracy_drop if gate.HasField("max_accuracy_drop") else MAX_ACCURACY_DROP
    drop = stable - candidate
    return Check(
        measure=GateVerdict.ACCURACY,
        passed=drop <= limit + _TINY,
        stable=stable,
        candidate=candidate,
        value=drop,
        limit=limit,
        message=f"accuracy is {candidate:.1%}, was {stable:.1%}, {limit:.1%} may be lost",
    )


def _latency(
    measure: "GateVerdict.Measure.ValueType", stable: float, candidate: float, gate: PromotionGate
) -> GateVerdict.Check:
    limit = gate.max_latency_ratio if gate.HasField("max_latency_ratio") else MAX_LATENCY_RATIO
    ratio = candidate / stable if stable > 0 else 1.0
    name = "median" if measure == GateVerdict.LATENCY_P50 else "90th percentile"
    return Check(
        measure=measure,
        passed=ratio <= limit or candidate - stable <= LATENCY_FLOOR_MS,
        stable=stable,
        candidate=candidate,
        value=ratio,
        limit=limit,
        message=f"the {name} of latency is {candidate:.2f} ms, was {stable:.2f} ms, {limit:g} times as much may be",
    )


def _drift(drift: float, gate: PromotionGate) -> GateVerdict.Check:
    limit = gate.max_drift if gate.HasField("max_drift") else MAX_DRIFT
    return Check(
        measure=GateVerdict.DRIFT,
        passed=drift <= limit,
        value=drift,
        limit=limit,
        message=f"the spread of labels has moved by {drift:.3f} (PSI), {limit:g} may be",
    )
