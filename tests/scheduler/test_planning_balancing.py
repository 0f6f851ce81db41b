"""Load balancing policies: what each promises, for any weights and any load."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.planning.balancing import LeastConnections, PowerOfTwoChoices, RoundRobin, Weighted
from services.scheduler.planning.spread import PolicyName, Stream, Target, spread

WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def stream(policy: PolicyName, *weights: float, requests: int = 2000, concurrency: int = 16, seed: int = 0) -> Stream:
    targets = tuple(Target(name=f"t{index}", weight=weight) for index, weight in enumerate(weights))
    return Stream(policy=policy, targets=targets, requests=requests, concurrency=concurrency, seed=seed)


@given(st.integers(1, 50), st.integers(1, 20))
def test_round_robin_gives_each_of_n_an_nth(count: int, rounds: int) -> None:
    policy = RoundRobin(count)
    chosen = [policy.choose([0] * count) for _ in range(count * rounds)]
    assert [chosen.count(each) for each in range(count)] == [rounds] * count


@given(WEIGHTS, st.integers(1, 4))
def test_whole_weights_are_met_exactly_in_every_round(weights: list[int], rounds: int) -> None:
    policy = Weighted(weights)
    for _ in range(rounds):
        chosen = [policy.choose([0] * len(weights)) for _ in range(sum(weights))]
        assert [chosen.count(each) for each in range(len(weights))] == weights


@given(WEIGHTS)
def test_weighted_is_mixed_and_not_in_bursts(weights: list[int]) -> None:
    total, policy = sum(weights), Weighted(weights)
    given_to = [0] * len(weights)
    for sent in range(1, total + 1):
        given_to[policy.choose([])] += 1
        for count, weight in zip(given_to, weights, strict=True):
            assert abs(count - sent * weight / total) < len(weights), "it is far from its due"


def test_smooth_weighted_round_robin_is_the_known_sequence() -> None:
    policy = Weighted([5, 1, 1])
    assert [policy.choose([]) for _ in range(7)] == [0, 0, 1, 0, 2, 0, 0]


@given(st.lists(st.lists(st.integers(0, 100), min_size=5, max_size=5), min_size=1, max_size=30))
def test_least_connections_never_chooses_a_busier_one(loads: list[list[int]]) -> None:
    policy = LeastConnections(5)
    for load in loads:
        assert load[policy.choose(load)] == min(load)


def test_least_connections_goes_round_among_equals() -> None:
    policy = LeastConnections(3)
    assert [policy.choose([0, 0, 0]) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.integers(0, 1000))
def test_of_two_the_less_busy_is_chosen_so_never_the_busiest_alone(load: list[int], seed: int) -> None:
    policy = PowerOfTwoChoices(len(load), seed)
    for _ in range(20):
        chosen = policy.choose(load)
        assert len(load) == 1 or load.count(max(load)) > 1 or load[chosen] < max(load)


def test_chance_is_seeded() -> None:
    one, same, other = (PowerOfTwoChoices(10, seed) for seed in (1, 1, 2))
    idle = [0] * 10
    chosen = [one.choose(idle) for _ in range(50)]
    assert chosen == [same.choose(idle) for _ in range(50)]
    assert chosen != [other.choose(idle) for _ in range(50)]


@settings(max_examples=50)
@given(WEIGHTS, st.sampled_from(PolicyName), st.integers(1, 40))
def test_every_request_goes_somewhere_and_no_more_are_open_than_allowed(
    weights: list[int], policy: PolicyName, concurrency: int
) -> None:
    found = spread(stream(policy, *weights, requests=300, concurrency=concurrency))
    assert sum(each.requests for each in found.shares) == 300
    assert max(each.peak_open for each in found.shares) <= concurrency
    assert sum(each.ideal for each in found.shares) == pytest.approx(1.0)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 8), min_size=2, max_size=6))
def test_shares_converge_to_the_weights(weights: list[int]) -> None:
    for policy, off in ((PolicyName.WEIGHTED, 0.01), (PolicyName.LEAST_CONNECTIONS, 0.06)):
        found = spread(stream(policy, *weights, requests=4000, concurrency=8 * len(weights)))
        for each in found.shares:
            assert each.share == pytest.approx(each.ideal, abs=off), policy.name


def test_policies_that_look_at_the_load_use_unequal_targets_better_than_round_robin() -> None:
    ends = {policy: spread(stream(policy, 4, 2, 1, 1)).makespan for policy in PolicyName}
    assert ends[PolicyName.LEAST_CONNECTIONS] < 0.8 * ends[PolicyName.ROUND_ROBIN]
    assert ends[PolicyName.POWER_OF_TWO_CHOICES] < 0.9 * ends[PolicyName.ROUND_ROBIN]


def test_two_choices_leave_the_busiest_far_less_than_one() -> None:
    """Requests that never end: 100 on each at the mean. Chosen blindly, the fullest would have about 125."""
    policy, load = PowerOfTwoChoices(100, seed=7), [0] * 100
    for _ in range(10_000):
        load[policy.choose(load)] += 1
    assert max(load) <= 104
