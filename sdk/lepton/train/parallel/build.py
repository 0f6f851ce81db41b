"""Makes the strategy that a plan asks for."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import nn

from lepton.train.gang import Gang
from lepton.train.parallel.cutting import Cut, parameters_of, shared_between
from lepton.train.parallel.fsdp import Sharded, shard
from lepton.train.parallel.layers import Unit, units
from lepton.train.parallel.mesh import Place
from lepton.train.parallel.optimizing import MakeOptimizer, Optimizing
from lepton.train.parallel.parameter_server.ranks import Serving, Working
from lepton.train.parallel.pipelined import Pipelined
from lepton.train.parallel.precision import Precision
from lepton.train.parallel.replicas import Averaged, Replicas, Summed
from lepton.train.parallel.strategy import Strategy
from lepton.train.parallel.tensor import cut, mixing
from lepton.train.parallel.tied import Tied
from lepton.train.parallel.whole import WholeModel
from lepton.train.plan import Plan


def strategy(
    plan: Plan, gang: Gang, build: Callable[[], nn.Module], optimizer: MakeOptimizer, *, precision: str = "fp32"
) -> Strategy:
    """This rank's part of the model that `build` makes, divided as the plan says; every rank of the gang calls it.

    `build` must make equal weights on all ranks (seed torch first). InvalidArgument or FailedPrecondition when the
    model or the ranks cannot be divided so.
    """
    data_size = plan.data_size(gang.world_size)
    format_ = Precision(precision, gang.device)
    model = build().to(gang.device)
    if plan.data == "parameter_server":
        return _parameter_server(plan, gang, data_size, model, optimizer, format_)
    layers = units(model, plan.tensor) if plan.tensor > 1 else []
    cuts = Cut(model, plan.pipeline) if plan.pipeline > 1 else None
    place = Place.of(plan, gang)
    if cuts is not None:
        return _pipelined(plan, place, model, cuts, layers, optimizer, format_)
    return _whole(plan, place, model, layers, optimizer, format_)


def _parameter_server(
    plan: Plan, gang: Gang, data_size: int, model: nn.Module, optimizer: MakeOptimizer, precision: Precision
) -> Strategy:
    place = Place(rank=gang.rank, device=gang.device, data_rank=max(gang.rank - plan.servers, 0), data_size=data_size)
    if gang.rank < plan.servers:
        return Serving(plan, place, gang.store, model, optimizer)
    return Working(plan, place, gang.store, model, optimizer, precision)


def _whole(
    plan: Plan, place: Place, model: nn.Module, layers: list[Unit], optimizer: MakeOptimizer, precision: Precision
) -> Strategy:
    if layers:
        cut(model, place.along("tensor"), layers)
    replicas = _replicas(plan, place, model, precision)
    optimizing = Optimizing(dict(model.named_parameters()), optimizer, precision, device=place.device)
    return WholeModel(model, place, replicas, optimizing, precision, mixing=_mixing(plan, place))


def _pipelined(
    plan: Plan,
    place: Place,
    model: nn.Module,
    cuts: Cut,
    layers: list[Unit],
    optimizer: MakeOptimizer,
    precision: Precision,
) -> Strategy:
    stages = [cuts.stage(number)[0] for number in range(plan.pipeline)]
    stage, takes_inputs = cuts.stage(place.pipeline_rank)
    names = [frozenset(parameters_of(each)) for each in stages]
    shared = shared_between(model, stages)
    first_names = _first_names(model)
    if layers:
        modules = {name for name, _ in stage.named_modules()}
        cut(stage, place.along("tensor"), [unit for unit in layers if modules.issuperset(unit)])
    replicas = _replicas(plan, place, stage, precision)
    mine = parameters_of(stage)
    tied = Tied.between(shared, names, mine, place)
    optimizing = Optimizing(
        {first_names[name]: parameter for name, parameter in stage.named_parameters()},
        optimizer,
        precision,
        device=place.device,
        pipeline=place.group("pipeline"),
        counted_elsewhere=frozenset(first_names[name] for name in tied.elsewhere),
    )
    return Pipelined(
        stage,
        place,
        replicas,
        optimizing,
        precision,
        stages=plan.pipeline,
        microbatches=plan.microbatches,
        takes_inputs=takes_inputs,
        tied=tied,
        mixing=_mixing(plan, place),
    )


def _replicas(plan: Plan, place: Place, model: nn.Module, precision: Precision) -> Replicas:
    if plan.data == "fsdp":
        shard(model, place.along("data"), precision)
        return Sharded(model, data_size=place.data_size)
    if place.data_size == 1:
        return Summed(model)
    if place.mesh is not None:  # torch's DDP knows neither stages nor cut layers
        return Summed(model, place.group("data"))
    return Averaged(model, device=place.device, data_size=place.data_size)


def _mixing(plan: Plan, place: Place) -> Callable[[], AbstractContextManager[object]]:
    return partial(mixing, place.device) if plan.tensor > 1 else nullcontext


def _first_names(model: nn.Module) -> Mapping[str, str]:
    """The first name of each weight by any of its names: optimizers know a weight by that one."""
    first = {parameter: name for name, parameter in reversed(parameters_of(model).items())}
    return {name: first[parameter] for name, parameter in parameters_of(model).items()}
