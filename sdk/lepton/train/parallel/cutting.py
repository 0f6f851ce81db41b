"""Cutting an untouched model into pipeline stages: its forward pass is traced, and the trace dealt out.

Only the order of the larger steps is traced (torch.fx with whole modules as steps); inside them any code may stand.
What a stage needs of an earlier one travels with the activations. What follows from the inputs' shapes alone, such as
positions and masks, is computed anew in every stage that uses it; and every stage has the inputs themselves.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import fx, nn

from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.train.parallel.partition import partition

_SHAPE_METHODS: Final = frozenset({"size", "dim", "numel", "__len__"})
_SHAPE_ATTRIBUTES: Final = frozenset({"shape", "device", "dtype", "ndim", "is_cuda"})


class Cut:
    """The traced model, and the stage that each step belongs to."""

    def __init__(self, model: nn.Module, stages: int) -> None:
        self._stages = stages
        self._traced = _trace(model, stages)
        self._inputs = next(node for node in self._traced.graph.nodes if node.op == "placeholder")
        self._everywhere = _everywhere(self._traced)
        self._stage = _deal(self._traced, self._everywhere, _declared(model), stages)

    def stage(self, number: int) -> tuple[fx.GraphModule, bool]:
        """That stage as a module whose weights have the model's names, and whether it takes the model's inputs too.

        A stage takes what comes from the one before, in the order it came, and gives a tuple; the first takes the
        inputs, the last gives what the model gives. Later stages that need the inputs take them as `inputs`.
        """
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        arriving = self._crossing(number - 1)
        if number == 0:
            copies[self._inputs] = graph.placeholder("inputs")
        for index, node in enumerate(arriving):
            copies[node] = graph.placeholder(f"arriving_{index}")
        mine = [node for node in self._traced.graph.nodes if self._stage.get(node) == number]
        takes_inputs = number > 0 and self._inputs in _needed(mine, self._everywhere)
        if takes_inputs:
            copies[self._inputs] = graph.placeholder("inputs")
        for node in mine:
            for step in [*_in_order(_needed([node], self._everywhere), self._traced), node]:
                if step not in copies and step.op not in ("placeholder", "output"):
                    copies[step] = graph.node_copy(step, copies.__getitem__)
        if number == self._stages - 1:
            result = next(node for node in self._traced.graph.nodes if node.op == "output").args[0]
            graph.output(fx.map_arg(result, copies.__getitem__))
        else:
            graph.output(tuple(copies[node] for node in self._crossing(number)))
        return fx.GraphModule(self._traced, graph, class_name=f"Stage{number}"), takes_inputs

    def _crossing(self, number: int) -> list[fx.Node]:
        """What goes from that stage to the next: made there or before, needed after."""
        return [
            node
            for node in self._traced.graph.nodes
            if 0 <= self._stage.get(node, -1) <= number
            and node.op != "output"
            and any(self._stage.get(user, -1) > number for user in _users(node, self._everywhere))
        ]


class _Tracer(fx.Tracer):
    """Traces into what must be opened to find enough steps; all other modules are steps."""

    proxy_buffer_attributes = True  # a buffer may be cut by what depends on the inputs
    trace_asserts = True

    def __init__(self, opened: frozenset[nn.Module]) -> None:
        super().__init__(autowrap_functions=())
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one step."""
        return m not in self._opened and not isinstance(m, nn.Sequential | nn.ModuleList)


def _trace(model: nn.Module, stages: int) -> fx.GraphModule:
    opened: frozenset[nn.Module] = frozenset({model})
    while True:
        try:
            with _conversions_pass():
                traced = fx.GraphModule(model, _Tracer(opened).trace(model))
        except Exception as error:  # the user's own forward ran
            problem = f"its forward pass cannot be traced ({error})"
            raise FailedPrecondition("MODEL_NOT_DIVISIBLE", axis="pipeline", problem=problem) from error
        steps = _weighty(traced)
        if len(steps) >= stages:
            return traced
        deeper = {
            module
            for module in (traced.get_submodule(str(node.target)) for node in steps)
            if any(True for _ in module.children()) and not type(module).__module__.startswith("torch.nn")
        }
        if not deeper:
            problem = f"it has {len(steps)} steps with weights; {stages} stages need as many: use fewer stages"
            raise FailedPrecondition("MODEL_NOT_DIVISIBLE", axis="pipeline", problem=problem)
        opened |= deeper


@contextmanager
def _conversions_pass() -> Iterator[None]:
    # torch.as_tensor is the one conversion that models apply to activations and that fx cannot trace.
    convert = torch.as_tensor

    def as_tensor(value: Any, *args: Any, **kwargs: Any) -> Any:
        return value if isinstance(value, fx.Proxy) else convert(value, *args, **kwargs)

    torch.as_tensor = as_tensor  # type: ignore[assignment]  # while the trace is made
    try:
        yield
    finally:
        torch.as_tensor = convert


def _weighty(traced: fx.GraphModule) -> list[fx.Node]:
    """The steps that have weights."""
    return [
        node
        for node in traced.graph.nodes
        if node.op == "call_module" and any(True for _ in traced.get_submodule(str(node.target)).parameters())
    ]


def _everywhere(traced: fx.GraphModule) -> frozenset[fx.Node]:
    """The steps that every stage can make itself: from shapes and buffers, without weights and without activations."""
    found: set[fx.Node] = set()
    parameters = {name for name, _ in traced.named_parameters(remove_duplicate=False)}
    for node in traced.graph.nodes:
        if node.op == "placeholder" or (node.op == "get_attr" and node.target not in parameters):
            found.add(node)
        elif node.op in ("call_function", "call_method") and not _random(node):
            sources = node.all_input_nodes
            if _is_shape(node) or all(source in found and source.op != "placeholder" for source in sources):
                found.add(node)
    return frozenset(found)


def _is_shape(node: fx.Node) -> bool:
    # The shape of an activation is no less its first dimensions; but only that of the inputs is there in every stage.
    if not node.all_input_nodes or any(source.op != "placeholder" for source in node.all_input_nodes):
        return False
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.target is len or (node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES)


def _random(node: fx.Node) -> bool:
    return "rand" in str(node.target) or "dropout" in str(node.target)


def _declared(model: nn.Module) -> Sequence[str]:
    names = getattr(model, "pipeline_splits", ())
    return tuple(names() if callable(names) else names)


def _deal(
    traced: fx.GraphModule, everywhere: frozenset[fx.Node], declared: Sequence[str], stages: int
) -> dict[fx.Node, int]:
    """The stage of every step that has one."""
    steps = _weighty(traced)
    first = _firsts_declared(steps, declared, stages) if declared else _firsts_balanced(traced, steps, stages)
    dealt: dict[fx.Node, int] = {}
    number = 0
    for node in traced.graph.nodes:
        if node.op == "placeholder" or (node in everywhere and node.op != "output"):
            continue
        if number + 1 < stages and node is first[number + 1]:
            number += 1
        dealt[node] = stages - 1 if node.op == "output" else number
    return dealt


def _firsts_declared(steps: Sequence[fx.Node], declared: Sequence[str], stages: int) -> list[fx.Node]:
    """The first step of each stage, as the model names them; more splits than needed are taken evenly."""
    names = {str(node.target): node for node in steps}
    if unknown := [name for name in declared if name not in names]:
        raise InvalidArgument(
            "INVALID_FIELD", fields={"model.pipeline_splits": f"{unknown[0]!r} is no step of it: {', '.join(names)}"}
        )
    if len(declared) < stages - 1:
        problem = f"it names {len(declared)} places to split at; {stages} stages need {stages - 1}"
        raise FailedPrecondition("MODEL_NOT_DIVISIBLE", axis="pipeline", problem=problem)
    chosen = [declared[(index * (len(declared) + 1)) // stages - 1] for index in range(1, stages)]
    return [steps[0], *(names[name] for name in chosen)]


def _firsts_balanced(traced: fx.GraphModule, steps: Sequence[fx.Node], stages: int) -> list[fx.Node]:
    """The first step of each stage, the heaviest stage being as light as it can be; weight = parameters."""
    weights = [
        sum(parameter.numel() for parameter in traced.get_submodule(str(node.target)).parameters()) for node in steps
    ]
    return [steps[start] for start in partition(weights, stages)]


def _needed(nodes: Sequence[fx.Node], everywhere: frozenset[fx.Node]) -> set[fx.Node]:
    """What the steps need of what every stage makes itself, directly or not."""
    found: set[fx.Node] = set()
    ahead = [source for node in nodes for source in node.all_input_nodes]
    while ahead:
        node = ahead.pop()
        if node in everywhere and node not in found:
            found.add(node)
            ahead.extend(node.all_input_nodes)
    return found


def _in_order(nodes: set[fx.Node], traced: fx.GraphModule) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if node in nodes]


def _users(node: fx.Node, everywhere: frozenset[fx.Node]) -> list[fx.Node]:
    return [user for user in node.users if user not in everywhere]


def parameters_of(module: nn.Module) -> dict[str, Any]:
    """Parameters by name, those that are one under several names under each."""
    return dict(module.named_parameters(remove_duplicate=False))


def shared_between(model: nn.Module, stages: Sequence[nn.Module]) -> dict[str, tuple[str, ...]]:
    """The weights that several stages hold: first name -> all names in the model."""
    by_weight: dict[torch.Tensor, list[str]] = {}
    for name, parameter in parameters_of(model).items():
        by_weight.setdefault(parameter, []).append(name)
    held = [set(parameters_of(stage)) for stage in stages]
    return {
        names[0]: tuple(names)
        for names in by_weight.values()
        if sum(any(name in stage for name in names) for stage in held) > 1
    }
