"""The proposal: the best for the target within the rule, and what is said when there is none."""

import random
from typing import Any

import pytest

from services.inference.compress.figures import Figures, Report
from services.inference.compress.selection import Candidate, Rule, Target, broken, propose

ORIGINAL = {"bytes": 1000, "latency_p50_us": 100.0, "throughput": 100.0, "accuracy": 0.9, "accuracy_drop": 0.0}


def figures(**given: Any) -> Figures:
    known = {
        "compressed_bytes": 1, "parameters": 1, "nonzero_parameters": 1, "latency_p99_us": 1.0, "measure": "accuracy",
        "evaluated": 100, "evaluated_on": "held-out samples", **ORIGINAL,
    }  # fmt: skip
    return Figures(**{**known, **given})


def candidate(name: str, size: float, latency: float, throughput: float, drop: float) -> Candidate:
    measured = figures(
        bytes=round(1000 * size),
        latency_p50_us=100 * latency,
        throughput=100 * throughput,
        accuracy=0.9 - drop,
        accuracy_drop=drop,
    )
    return Candidate(name=name, figures=measured, original=figures())


SMALL = candidate("small", 0.2, 0.9, 1.1, 0.004)
FAST = candidate("fast", 0.9, 0.4, 2.0, 0.0)
WIDE = candidate("wide", 0.8, 0.7, 5.0, 0.001)
WRONG = candidate("wrong", 0.1, 0.1, 9.0, 0.02)
ALL = (SMALL, FAST, WIDE, WRONG)


@pytest.mark.parametrize(
    ("target", "expected"), [(Target.LATENCY, "fast"), (Target.THROUGHPUT, "wide"), (Target.SIZE, "small")]
)
def test_the_best_for_each_target_keeps_the_accuracy(target: Target, expected: str) -> None:
    verdict = propose(ALL, Rule(max_accuracy_drop=0.005), target)
    assert verdict.name == expected
    assert set(verdict.refused) == {"wrong"}
    assert "2.00 %" in verdict.refused["wrong"]
    assert verdict.pareto == {"small", "fast", "wide"}


def test_the_accuracy_is_a_hard_constraint_however_good_the_rest_is() -> None:
    assert propose(ALL, Rule(max_accuracy_drop=0.02), Target.LATENCY).name == "wrong"  # the control: it is the best
    assert propose(ALL, Rule(max_accuracy_drop=0.0199), Target.LATENCY).name == "fast"


def test_time_is_minimised_within_the_size() -> None:
    verdict = propose(ALL, Rule(max_size_ratio=0.85), Target.LATENCY)
    assert (verdict.name, set(verdict.refused)) == ("wide", {"fast", "wrong"})
    assert propose(ALL, Rule(max_bytes=200), Target.LATENCY).name == "small"


def test_an_infeasible_rule_names_the_constraint_and_the_nearest() -> None:
    verdict = propose([WRONG], Rule(max_accuracy_drop=0.005), Target.SIZE)
    assert verdict.name == ""
    assert "no variant keeps the accuracy" in verdict.reason
    assert "wrong, the nearest, loses 2.00 %" in verdict.reason
    verdict = propose(ALL, Rule(max_bytes=150), Target.SIZE)
    assert verdict.name == ""
    assert "150 bytes are allowed, and small, the smallest, has 200" in verdict.reason
    assert propose([], Rule(), Target.SIZE).reason == "no variant could be measured"


def test_what_is_no_better_than_the_original_is_not_proposed() -> None:
    slow = candidate("slow", 0.5, 1.2, 0.8, 0.0)
    verdict = propose([slow], Rule(), Target.LATENCY)
    assert verdict.name == ""
    assert "no variant that keeps the rule has a better latency than the original" in verdict.reason
    assert propose([slow], Rule(), Target.SIZE).name == "slow"


def test_of_variants_that_are_as_fast_the_smaller_is_proposed() -> None:
    one, other = candidate("large", 0.9, 0.500, 2, 0), candidate("little", 0.3, 0.510, 2, 0)
    assert propose([one, other], Rule(), Target.LATENCY).name == "little"
    slower = candidate("little", 0.3, 0.6, 2, 0)
    assert propose([one, slower], Rule(), Target.LATENCY).name == "large"


def test_a_drop_of_exactly_the_limit_is_kept_and_nan_never_is() -> None:
    rule = Rule(max_accuracy_drop=0.005)
    assert broken(candidate("a", 0.5, 0.5, 2, 0.9 - 0.895), rule) == ""
    assert broken(candidate("a", 0.5, 0.5, 2, 0.00501), rule)
    assert broken(candidate("a", 0.5, 0.5, 2, float("nan")), rule)


def test_a_proposal_keeps_the_rule_and_is_never_outdone_by_another() -> None:
    chance = random.Random(seed := 11)
    print("seed", seed)
    for _ in range(300):
        found = [
            candidate(str(at), *(chance.uniform(0.05, 1.5) for _ in range(3)), chance.uniform(-0.01, 0.02))
            for at in range(chance.randint(0, 8))
        ]
        rule = Rule(max_accuracy_drop=chance.uniform(0, 0.015), max_size_ratio=chance.choice([0, 0.5, 1]))
        target = chance.choice(list(Target))
        verdict = propose(found, rule, target)
        within = [each for each in found if not broken(each, rule)]
        if verdict.name:
            (best,) = (each for each in found if each.name == verdict.name)
            assert best in within
            assert best.cost(target) < 1
            assert best.cost(target) <= min(each.cost(target) for each in within) * 1.03 + 1e-12
        else:
            assert all(each.cost(target) >= 1 for each in within)
            assert verdict.reason


def test_a_report_comes_back_as_it_was() -> None:
    report = Report(variant="int8-static", figures=figures(), original=figures(), package="sha256:1", notes=("cut",))
    assert Report.parse(report.render()) == report
    missing = Report(variant="tensorrt-fp16", not_applicable="no GPU")
    assert Report.parse(missing.render()) == missing
