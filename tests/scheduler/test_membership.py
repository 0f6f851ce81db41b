"""Which pool takes a node that names none."""

import random

from hypothesis import given
from hypothesis import strategies as st

from lepton.scheduler.v1 import node_pb2, pool_pb2, resources_pb2
from services.scheduler.membership import Candidate, Rule, assign

KEYS, VALUES = ("zone", "tier"), ("a", "b")
labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
models = st.lists(st.sampled_from(("H200", "A10")), max_size=3)
nodes = st.builds(
    lambda labels, cpu, memory, models: node_pb2.Node(
        labels=labels,
        capacity=resources_pb2.Resources(cpu_milli=cpu, memory_bytes=memory),
        devices=[resources_pb2.Device(index=at, model=model) for at, model in enumerate(models)],
    ),
    labels, st.integers(0, 3), st.integers(0, 3), models,
)  # fmt: skip
rules = st.builds(
    lambda labels, cpu, memory, devices, models, precedence: pool_pb2.MembershipRule(
        match_labels=labels,
        at_least=resources_pb2.Resources(
            cpu_milli=cpu, memory_bytes=memory, device_milli=1000 * devices, device_models=models
        ),
        precedence=precedence,
    ),
    labels, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), models, st.integers(-1, 1),
)  # fmt: skip
pools = st.lists(st.none() | rules, max_size=6).map(
    lambda found: [pool_pb2.Pool(name=f"pools/p{at}", membership=rule) for at, rule in enumerate(found)]
)


def accepts(pool: pool_pb2.Pool, node: node_pb2.Node) -> bool:
    """The rule, said again in other words."""
    if not pool.HasField("membership"):
        return False
    rule = pool.membership
    wanted = rule.at_least
    counted = [each for each in node.devices if not wanted.device_models or each.model in wanted.device_models]
    return (
        rule.match_labels.items() <= node.labels.items()
        and node.capacity.cpu_milli >= wanted.cpu_milli
        and node.capacity.memory_bytes >= wanted.memory_bytes
        and 1000 * len(counted) >= wanted.device_milli
        and bool(counted or not wanted.device_models)
    )


@given(pools, nodes)
def test_the_accepting_rule_of_the_highest_precedence_then_name_gets_the_node(
    pools: list[pool_pb2.Pool], node: node_pb2.Node
) -> None:
    accepting = [pool for pool in pools if accepts(pool, node)]
    best = min(accepting, key=lambda pool: (-pool.membership.precedence, pool.name), default=None)
    found = assign(pools, Candidate.of(node))
    assert found.pool == (best.name if best is not None else "")
    assert bool(found.refusals) == (best is None and any(pool.HasField("membership") for pool in pools))


@given(pools, nodes, st.randoms(use_true_random=False))
def test_the_order_of_the_pools_does_not_matter(
    pools: list[pool_pb2.Pool], node: node_pb2.Node, chance: random.Random
) -> None:
    shuffled = [*pools]
    chance.shuffle(shuffled)
    assert assign(shuffled, Candidate.of(node)) == assign(pools, Candidate.of(node))


@given(pools, nodes)
def test_every_pool_with_a_rule_says_why_it_refuses(pools: list[pool_pb2.Pool], node: node_pb2.Node) -> None:
    candidate = Candidate.of(node)
    for pool in pools:
        rule = Rule.of(pool)
        assert (rule is None) == (not pool.HasField("membership"))
        if rule is not None:
            assert bool(list(rule.refusals(candidate))) == (not accepts(pool, node))


def test_a_refusal_says_what_there_is_and_what_was_asked_for() -> None:
    rule = pool_pb2.MembershipRule(
        match_labels={"zone": "a"}, at_least=resources_pb2.Resources(device_milli=2000, device_models=["H200"])
    )
    node = node_pb2.Node(labels={"zone": "b"}, devices=[resources_pb2.Device(model="A10")])
    found = assign([pool_pb2.Pool(name="pools/fast", membership=rule)], Candidate.of(node))
    assert found.refusals == ("pools/fast: label zone is b, not a; device_milli is 0, below 2000",)
