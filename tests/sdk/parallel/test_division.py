"""What is decided before any rank trains: plans, stages, layers, weights over servers, the workers' clock; pure."""

import random
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.train.parallel.blocks import blocks
from lepton.train.parallel.cutting import Cut, shared_between
from lepton.train.parallel.layers import units
from lepton.train.parallel.parameter_server.clock import Clock
from lepton.train.parallel.parameter_server.division import divide
from lepton.train.parallel.partition import partition
from lepton.train.parallel.precision import LossScale, Precision
from lepton.train.plan import Plan
from tests.harness.ranks import networks


def test_a_plan_is_read_from_the_jobs_json() -> None:
    assert Plan.parse("") == Plan()
    text = '{"data": "FSDP", "tensor": 2, "pipeline": 3, "microbatches": 6}'
    assert Plan.parse(text) == Plan(data="fsdp", tensor=2, pipeline=3, microbatches=6)
    server = Plan.parse('{"data": "PARAMETER_SERVER", "servers": 2, "maxStaleness": 3}')
    assert server == Plan(data="parameter_server", servers=2, max_staleness=3)
    assert Plan.parse('{"tensor": 0, "maxStaleness": 0}') == Plan()  # proto's zeros are defaults
    assert (Plan(tensor=2, pipeline=2).data_size(12), server.data_size(5)) == (3, 3)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", "parallelism"),
        ("[]", "parallelism"),
        ('{"data": "MAGIC"}', "parallelism.data"),
        ('{"tensor": "two"}', "parallelism.tensor"),
        ('{"tensor": -1}', "parallelism.tensor"),
        ('{"rings": 2}', "parallelism.rings"),
        ('{"data": "PARAMETER_SERVER", "tensor": 2}', "parallelism.data"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_by_field(text: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Plan.parse(text)
    assert list(refused.value.fields) == [field]


def test_ranks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no multiple of tensor x pipeline"):
        Plan(tensor=2, pipeline=2).data_size(6)
    with pytest.raises(InvalidArgument, match="leave no worker"):
        Plan(data="parameter_server", servers=3).data_size(3)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.data())
def test_a_partition_is_the_best_of_all(weights: list[int], data: st.DataObject) -> None:
    pieces = data.draw(st.integers(1, len(weights)))

    def heaviest(starts: list[int]) -> int:
        return max(sum(weights[a:b]) for a, b in zip(starts, [*starts[1:], len(weights)], strict=True))

    everything = [[0, *cuts] for cuts in combinations(range(1, len(weights)), pieces - 1)]
    starts = partition(weights, pieces)
    assert starts in everything
    assert heaviest(starts) == min(map(heaviest, everything))


@pytest.mark.parametrize(("network", "stages"), [("transformer", 2), ("transformer", 4), ("tied", 3), ("deep", 10)])
def test_stages_in_a_row_are_the_model(network: str, stages: int) -> None:
    model = networks.build(network)
    inputs = networks.batches(network)[0][0]
    cut = Cut(model, stages)
    held: list[str] = []
    values: tuple[torch.Tensor, ...] = (inputs,)
    modules = []
    for number in range(stages):
        stage, takes_inputs = cut.stage(number)
        values = stage(*values, **({"inputs": inputs} if takes_inputs else {}))
        held += stage.state_dict()
        modules.append(stage)
    assert torch.equal(values, model(inputs))  # type: ignore[arg-type]  # the last gives what the model gives
    assert set(held) == set(model.state_dict())
    assert all(any(True for _ in stage.parameters()) for stage in modules)
    assert shared_between(model, modules) == (
        {"words.weight": ("words.weight", "head.weight")} if network == "tied" else {}
    )


class Reused(nn.Module):
    """Needs its inputs, and something early, late; computes with a mask of its own."""

    pipeline_splits = ("second", "third")

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.first(x)
        late = self.third(self.second(early) @ self.get_buffer("mask")[: x.shape[1]])
        return torch.as_tensor(late + early + x)


def test_what_a_late_stage_needs_travels_along_or_is_made_anew() -> None:
    model, x = Reused(), torch.randn(3, 4)
    cut = Cut(model, 3)
    stages = [cut.stage(number) for number in range(3)]
    assert [takes for _, takes in stages] == [False, True, True]
    early = stages[0][0](x)
    middle = stages[1][0](*early, inputs=x)
    assert torch.equal(stages[2][0](*middle, inputs=x), model(x))
    assert [sorted(stage.state_dict()) for stage, _ in stages] == [
        ["first.bias", "first.weight"],
        ["mask", "second.bias", "second.weight"],
        ["third.bias", "third.weight"],
    ]


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.one(x) if x.sum() > 0 else self.two(x))


@pytest.mark.parametrize(
    ("model", "stages", "problem"),
    [(Branching(), 2, "cannot be traced"), (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 2, "use fewer stages")],
)
def test_a_model_that_has_no_such_stages_is_refused(model: nn.Module, stages: int, problem: str) -> None:
    with pytest.raises(FailedPrecondition, match=problem):
        Cut(model, stages)


def test_layers_are_paired_by_name_and_by_shape() -> None:
    found = units(networks.Transformer(blocks=1), 4)
    assert found == [
        {**dict.fromkeys(("blocks.0.attention.q", "blocks.0.attention.k", "blocks.0.attention.v"), "column"),
         "blocks.0.attention.out": "row"},
        {"blocks.0.mlp.0": "column", "blocks.0.mlp.2": "row"},
        {"words": "row"},
        {"head": "gathered"},
    ]  # fmt: skip
    assert units(networks.build("mlp"), 2) == [{"0": "column", "2": "row"}]


class Declared(nn.Module):
    tensor_plan = {"layers.*": "column", "last": "row"}  # noqa: RUF012  # what a user would write

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(4, 8)])
        self.last = nn.Linear(8, 4)


def test_a_model_may_declare_how_it_is_cut() -> None:
    assert units(Declared(), 2) == [{"layers.0": "column", "layers.1": "column", "last": "row"}]
    with pytest.raises(FailedPrecondition, match="the 8 outputs of 'layers.0' do not divide by 3"):
        units(Declared(), 3)
    model = Declared()
    for plan in ({"nothing": "row"}, {"last": "sideways"}, {"layers": "row"}):
        model.tensor_plan = plan
        with pytest.raises(InvalidArgument, match="tensor_plan"):
            units(model, 2)


def test_a_model_without_layers_that_can_be_cut_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="no two linear layers"):
        units(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2)), 2)
    with pytest.raises(FailedPrecondition, match="do not divide by 5"):
        units(networks.build("mlp"), 5)
    with pytest.raises(FailedPrecondition, match="4 heads"):
        units(nn.ModuleDict({"only": networks.Attention(24, 4)}), 3)


def test_blocks_are_the_outermost_sequence_elements_with_weights() -> None:
    assert list(blocks(networks.Transformer(blocks=2))) == ["blocks.0", "blocks.1"]
    assert list(blocks(networks.build("mlp"))) == ["0", "2", "4"]
    assert not blocks(nn.Linear(2, 2))


def test_weights_are_spread_evenly_over_servers() -> None:
    sizes = {f"w{number}": size for number, size in enumerate((900, 500, 400, 300, 200, 100))}
    shares = divide(sizes, 2)
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert [sum(sizes[name] for name in share) for share in shares] == [1200, 1200]
    assert divide(sizes, 2) == divide(dict(reversed(sizes.items())), 2)


@given(st.integers(0, 3), st.integers(1, 4), st.integers(0, 2**32))
def test_no_worker_begins_further_ahead_than_the_bound_and_somebody_always_may(
    max_staleness: int, workers: int, seed: int
) -> None:
    chance = random.Random(seed)
    clock = Clock(workers=workers, max_staleness=max_staleness)
    for worker in range(workers):
        assert not any(clock.may_begin(other) for other in clock.present)  # before all have come
        clock.join(worker)
    slowest = 0
    for _ in range(60):
        worker = chance.randrange(workers)
        if worker not in clock.present:
            assert clock.join(worker) == slowest
        elif len(clock.present) > 1 and chance.random() < 0.1:
            clock.leave(worker)
        elif clock.may_begin(worker):
            clock.begin(worker)
            clock.tick(worker)
        assert clock.slowest >= slowest
        slowest = clock.slowest
        assert any(clock.may_begin(other) for other in clock.present)
    assert clock.furthest <= max_staleness


def test_a_clock_without_workers_remembers_where_they_were() -> None:
    clock = Clock(workers=1, max_staleness=0)
    clock.join(0)
    clock.tick(0)
    clock.leave(0)
    assert clock.join(0) == 1


def test_the_loss_scale_halves_on_overflow_and_grows_slowly() -> None:
    scale = LossScale()
    first = scale.value
    scale.update(is_finite=False)
    assert scale.value == first / 2
    other = LossScale()
    for _ in range(2000):
        scale.update(is_finite=True)
    assert scale.value == first
    other.load(scale.state())
    assert other.value == first


def test_sixteen_bit_floats_need_a_device() -> None:
    with pytest.raises(InvalidArgument, match="use bf16 on a CPU"):
        Precision("fp16", torch.device("cpu"))
    with pytest.raises(InvalidArgument, match="use fp32, bf16 or fp16"):
        Precision("int8", torch.device("cpu"))
