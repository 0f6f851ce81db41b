"""The promotion gate's numbers and verdicts, from answers made by hand."""

import math
from typing import Any

import numpy as np
import pytest

from chassis.resources import now
from lepton.inference.v1.rollout_pb2 import GateVerdict, PromotionGate
from services.inference.rollout.comparison import Comparison, Pair
from services.inference.rollout.gate import drifted, judge

M = GateVerdict.Measure


def answer(labels: list[int], noise: float = 0.0) -> dict[str, Any]:
    logits = np.eye(4, dtype=np.float32)[labels]
    return {"logits": logits + np.float32(noise)}


def pair(old: list[int], new: list[int], truth: list[int] | None = None, noise: float = 0.0, **fields: Any) -> Pair:
    labels = None if truth is None else np.asarray(truth)
    return Pair(stable=answer(old), candidate=answer(new, noise), labels=labels, **fields)


def failed(comparison: Comparison, gate: PromotionGate | None = None) -> set[str]:
    verdict = judge(comparison, gate or PromotionGate(), now())
    bad = {M.Name(check.measure) for check in verdict.checks if not check.passed}
    assert (verdict.outcome == GateVerdict.REFUSED) == bool(bad)
    return bad


def test_the_same_answers_pass_and_the_verdict_says_on_what() -> None:
    verdict = judge(Comparison(pairs=[pair([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 0])]), PromotionGate(), now())
    assert (verdict.outcome, verdict.golden_rows) == (GateVerdict.PASSED, 4)
    assert "4 golden rows" in verdict.message
    accuracy = next(check for check in verdict.checks if check.measure == GateVerdict.ACCURACY)
    assert (accuracy.stable, accuracy.candidate) == (0.75, 0.75)


def test_labels_that_differ_and_accuracy_that_drops_are_told_apart() -> None:
    better = Comparison(pairs=[pair([0, 1, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3])])
    assert failed(better) == {"LABEL_AGREEMENT"}, "it is more accurate, but another model"
    assert failed(better, PromotionGate(min_label_agreement=0.5)) == set()
    worse = Comparison(pairs=[pair([0, 1, 2, 3], [0, 1, 0, 0], [0, 1, 2, 3])])
    assert failed(worse, PromotionGate(min_label_agreement=0.5)) == {"ACCURACY"}
    assert failed(worse, PromotionGate(min_label_agreement=0.5, max_accuracy_drop=0.5)) == set()


def test_outputs_are_held_to_a_tolerance_only_where_one_is_set() -> None:
    apart = Comparison(pairs=[pair([0], [0], noise=0.125)])
    assert failed(apart) == set()
    assert failed(apart, PromotionGate(max_output_difference=0.2)) == set()
    assert failed(apart, PromotionGate(max_output_difference=0.1)) == {"OUTPUT_DIFFERENCE"}
    wrong = Comparison(pairs=[Pair(stable={"y": np.zeros(2)}, candidate={"y": np.asarray([0, np.nan])})])
    assert wrong.largest_difference() == math.inf
    texts = [np.asarray([text], dtype=object) for text in (b"a", b"b")]
    assert Comparison(pairs=[Pair(stable={"t": texts[0]}, candidate={"t": texts[1]})]).largest_difference() == math.inf


def test_what_the_new_one_fails_counts_and_what_both_fail_does_not() -> None:
    good, broken = pair([0], [0]), Pair(stable=answer([0]), candidate=None, problem="INTERNAL: no")
    neither = Pair(stable=None, candidate=None)
    assert failed(Comparison(pairs=[good, neither])) == set()
    comparison = Comparison(pairs=[good, broken, neither])
    assert failed(comparison) == {"ERROR_RATIO"}
    assert "INTERNAL: no" in judge(comparison, PromotionGate(), now()).message
    assert failed(comparison, PromotionGate(max_error_ratio=0.5)) == set()
    assert failed(Comparison(pairs=[neither])) == {"ERROR_RATIO"}, "nothing was learned"


@pytest.mark.parametrize(("new_ms", "expected"), [(21.0, set()), (39.0, set()), (41.0, {"LATENCY_P50", "LATENCY_P90"})])
def test_latency_is_held_to_a_ratio(new_ms: float, expected: set[str]) -> None:
    timed = Comparison(pairs=[pair([0], [0])], stable_ms=[20.0] * 10, candidate_ms=[new_ms] * 10)
    assert failed(timed) == expected


def test_a_few_milliseconds_are_the_machines_own() -> None:
    assert failed(Comparison(pairs=[pair([0], [0])], stable_ms=[0.5] * 9, candidate_ms=[5.0] * 9)) == set()


def test_a_moved_spread_of_labels_is_drift() -> None:
    old, new = [0, 1, 2, 3] * 50, [0, 0, 0, 3] * 50
    gate = PromotionGate(min_label_agreement=0)
    assert failed(Comparison(pairs=[pair(old, new)]), gate) == {"DRIFT"}
    shuffled = [1, 0, 3, 2] * 50
    assert failed(Comparison(pairs=[pair(old, shuffled)]), gate) == set(), "every label is another, their spread is not"
    assert failed(Comparison(pairs=[pair(old[:40], new[:40])]), gate) == set(), "too few to tell"


def test_live_answers_drift_only_with_enough_rows() -> None:
    few = Comparison(pairs=[pair([0], [1], is_live=True)] * 10)
    many = Comparison(pairs=[pair([0], [1], is_live=True)] * 40)
    assert drifted(few, PromotionGate()) == ""
    assert "0.0% of the labels" in drifted(many, PromotionGate())
    assert drifted(Comparison(pairs=[pair([0], [0], is_live=True)] * 40), PromotionGate()) == ""


def test_another_signature_ends_it() -> None:
    assert failed(Comparison(pairs=(), signature="input x is float64[3], was float32[3]")) == {"SIGNATURE"}


def test_a_model_without_labels_is_judged_by_the_rest() -> None:
    numbers = Comparison(pairs=[Pair(stable={"price": np.ones(5)}, candidate={"price": np.ones(5) * 1.5})])
    verdict = judge(numbers, PromotionGate(max_output_difference=1), now())
    assert {M.Name(check.measure) for check in verdict.checks} == {"SIGNATURE", "ERROR_RATIO", "OUTPUT_DIFFERENCE"}
    assert verdict.outcome == GateVerdict.PASSED
