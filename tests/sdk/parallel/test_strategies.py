"""Every way of dividing a training gives the losses and the weights of one process, in real gangs of gloo ranks."""

from typing import Any

import pytest
import torch

from tests.harness.ranks import networks
from tests.sdk.parallel.conftest import Cases, Ran, is_alike

HALF: dict[str, Any] = {"last": 3, "save": True}
REST: dict[str, Any] = {"first": 3}

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.integration]


async def test_two_ranks_in_every_way_train_as_one_process_does(cases: Cases) -> None:
    ran = await cases.run(
        2,
        [
            {"name": "ddp", "network": "mlp", "parts": 2},
            {"name": "ddp partly", "network": "partly", "parts": 3},
            {"name": "fsdp", "network": "transformer", "plan": {"data": "FSDP"}, "parts": 2, **HALF},
            {"name": "tensor", "network": "transformer", "plan": {"tensor": 2}, "parts": 2, "load": "fsdp", **REST},
            {"name": "pipeline", "network": "tied", "plan": {"pipeline": 2, "microbatches": 3}, "parts": 2},
            {"name": "gpipe", "network": "mlp", "plan": {"pipeline": 2, "microbatches": 1}},
        ],
        LEPTON_PREFLIGHT="1",
    )
    assert is_alike(ran["fsdp"], "transformer", last=3)
    assert is_alike(ran["tensor"], "transformer", first=3)  # from what another strategy saved
    assert is_alike(ran["pipeline"], "tied")
    assert is_alike(ran["ddp partly"], "partly")
    assert is_alike(ran["ddp"], "mlp")
    assert is_alike(ran["gpipe"], "mlp")


async def test_four_ranks_combine_two_ways(cases: Cases) -> None:
    ran = await cases.run(
        4,
        [
            {"name": "saved", "network": "transformer", "plan": {"data": "FSDP", "tensor": 2}, **HALF},
            {"name": "loaded", "network": "transformer", "plan": {"pipeline": 2}, "load": "saved", **REST},
        ],
    )
    assert is_alike(ran["saved"], "transformer", last=3)
    assert is_alike(ran["loaded"], "transformer", first=3)


@pytest.mark.slow
async def test_further_ways_of_two_and_four_ranks(cases: Cases) -> None:
    two = [
        {"name": "fsdp tied", "plan": {"data": "FSDP"}},
        {"name": "tensor tied", "plan": {"tensor": 2}},
        {"name": "pipeline", "plan": {"pipeline": 2}},
    ]
    four = [
        {"name": "ddp x tensor", "plan": {"tensor": 2}},
        {"name": "fsdp x pipeline tied", "plan": {"data": "FSDP", "pipeline": 2}},
        {"name": "pipeline x tensor tied", "plan": {"pipeline": 2, "tensor": 2}},
    ]
    for size, plans in ((2, two), (4, four)):
        ran = await cases.run(size, [{"network": _network(plan["name"]), **plan} for plan in plans])
        assert not [name for name, each in ran.items() if not is_alike(each, _network(name))]
    assert len({round(each.evaluated, 2) for name, each in ran.items() if "tied" in name}) == 1


@pytest.mark.slow
async def test_a_state_loads_under_another_plan_and_at_another_world_size(cases: Cases) -> None:
    half: dict[str, Any] = {"network": "transformer", **HALF}
    rest: dict[str, Any] = {"network": "transformer", **REST}
    await cases.run(4, [{"name": "saved by fsdp x tensor", "plan": {"data": "FSDP", "tensor": 2}, **half}])
    ran = await cases.run(
        2,
        [
            {"name": "by ddp", "load": "saved by fsdp x tensor", **rest},
            {"name": "saved by pipeline", "plan": {"pipeline": 2}, **half},
            {"name": "by tensor", "plan": {"tensor": 2}, "load": "saved by pipeline", **rest},
            {"name": "saved by tensor", "plan": {"tensor": 2}, **half},
            {"name": "by fsdp", "plan": {"data": "FSDP"}, "load": "saved by tensor", **rest},
            {"name": "by pipeline", "plan": {"pipeline": 2}, "load": "saved by fsdp x tensor", **rest},
        ],
    )
    resumed = {name: each for name, each in ran.items() if name.startswith("by ")}
    assert not [name for name, each in resumed.items() if not is_alike(each, "transformer", first=3)]


async def test_ddp_resumes_to_the_last_bit_at_the_same_world_size(cases: Cases) -> None:
    ran = await cases.run(
        3,
        [
            {"name": "uninterrupted", "network": "mlp"},
            {"name": "half", "network": "mlp", "last": 3, "save": True},
            {"name": "resumed", "network": "mlp", "first": 3, "load": "half"},
        ],
    )
    assert ran["resumed"].losses == ran["uninterrupted"].losses[3:]
    assert all(torch.equal(ran["resumed"].weights[n], tensor) for n, tensor in ran["uninterrupted"].weights.items())
    assert not torch.equal(ran["half"].weights["0.weight"], ran["resumed"].weights["0.weight"])


async def test_sixteen_bits_stay_near_thirty_two(cases: Cases) -> None:
    plans: dict[str, Any] = {"ddp": {}, "fsdp": {"data": "FSDP"}, "tensor": {"tensor": 2}, "pipeline": {"pipeline": 2}}
    ran = await cases.run(
        2, [{"name": n, "network": "mlp", "plan": plan, "precision": "bf16"} for n, plan in plans.items()]
    )
    losses, _ = networks.alone("mlp", networks.batches("mlp"))
    assert [each.losses for each in ran.values()] == [pytest.approx(losses, rel=0.01)] * len(plans)
    assert not [name for name, each in ran.items() if is_alike(each, "mlp")]  # they did compute in 16 bits


async def test_the_comparison_notices_a_sample_that_is_left_out() -> None:
    """The negative control of this file: what one process makes of one sample less is not alike."""
    steps = networks.batches("mlp")
    losses, weights = networks.alone("mlp", steps)
    assert is_alike(Ran(losses, 0.0, weights), "mlp")
    x, y = steps[1]
    losses, weights = networks.alone("mlp", [steps[0], (x[:-1], y[:-1]), *steps[2:]])
    assert not is_alike(Ran(losses, 0.0, weights), "mlp")


@pytest.mark.slow
async def test_a_network_is_split_into_ten_stages(cases: Cases) -> None:
    ran = await cases.run(10, [{"name": "ten", "network": "deep", "plan": {"pipeline": 10, "microbatches": 10}}])
    assert is_alike(ran["ten"], "deep")


@pytest.mark.slow
async def test_eight_ranks_combine_three_ways(cases: Cases) -> None:
    plan = {"pipeline": 2, "tensor": 2}
    ran = await cases.run(
        8,
        [
            {"name": "ddp tied", "network": "tied", "plan": plan},
            {"name": "fsdp", "network": "transformer", "plan": {**plan, "data": "FSDP"}},
        ],
    )
    assert not [name for name, each in ran.items() if not is_alike(each, _network(name))]


def _network(name: str) -> str:
    return "tied" if "tied" in name else "transformer"
