"""Which layers of a model are cut for tensor parallelism, and how: declared by the model or derived; pure.

Megatron's way (Shoeybi et al. 2019): of two linear layers with something element-wise or per-head between them, the
first is cut by its outputs ("column"), the second by its inputs ("row"); the pair sums once. An embedding is cut by its
vocabulary ("row"), the layer that gives a score for each word by its outputs, which are then gathered ("gathered").
"""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

from torch import nn

from lepton.errors import FailedPrecondition, InvalidArgument

WAYS: Final = ("column", "row", "gathered")
_COLUMNS: Final = ("q", "k", "v", "query", "key", "value", "qkv", "q_proj", "k_proj", "v_proj", "in_proj", "c_attn",
                   "to_q", "to_k", "to_v", "wq", "wk", "wv", "gate", "up", "gate_proj", "up_proj", "w1", "w3", "fc1",
                   "c_fc", "linear1")  # fmt: skip
_ROWS: Final = ("out", "o", "out_proj", "o_proj", "proj", "project", "c_proj", "to_out", "wo", "down",
                "down_proj", "w2", "fc2", "linear2")  # fmt: skip
_HEADS: Final = ("heads", "n_head", "n_heads", "num_heads", "nhead")

Unit = Mapping[str, str]  # layers that are cut together: name -> way


def units(model: nn.Module, size: int) -> list[Unit]:
    """The layers to cut over `size` ranks; FailedPrecondition when there are none that can be."""
    declared = getattr(model, "tensor_plan", None)
    if declared is not None:
        return [_declared(model, declared() if callable(declared) else declared, size)]
    found, problems = list[Unit](), list[str]()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            continue  # it uses its weights itself
        for unit in _pairs(name, module):
            problem = _undivided(model, unit, size) or _heads(module, name, size)
            problems.append(problem) if problem else found.append(unit)
    if not found and not problems:  # layers that are not in one module
        for unit in _neighbours({name: m for name, m in model.named_modules() if type(m) is nn.Linear}):
            problem = _undivided(model, unit, size)
            problems.append(problem) if problem else found.append(unit)
    found += _vocabulary(model, size, {name for unit in found for name in unit})
    if not found:
        why = "; ".join(problems[:3]) or "it has no two linear layers in sequence"
        raise FailedPrecondition("MODEL_NOT_DIVISIBLE", axis="tensor", problem=f"{why}; declare a tensor_plan")
    return found


def _declared(model: nn.Module, plan: Mapping[str, str], size: int) -> Unit:
    chosen: dict[str, str] = {}
    for pattern, way in plan.items():
        if way not in WAYS:
            raise _invalid(f"{pattern!r} is {way!r}; use {', '.join(WAYS)}")
        names = [name for name, _ in model.named_modules() if fnmatchcase(name, pattern)]
        if not names:
            raise _invalid(f"{pattern!r} is no module of it")
        for name in names:
            if not isinstance(model.get_submodule(name), nn.Linear | nn.Embedding):
                raise _invalid(f"{name!r} is neither Linear nor Embedding")
            chosen[name] = way
    if problem := _undivided(model, chosen, size):
        raise FailedPrecondition("MODEL_NOT_DIVISIBLE", axis="tensor", problem=problem)
    return chosen


def _pairs(path: str, parent: nn.Module) -> Iterator[Unit]:
    """The pairs among a module's own linear layers: those named as is usual, then neighbours that fit."""
    prefix = f"{path}." if path else ""
    layers = {name: child for name, child in parent.named_children() if type(child) is nn.Linear}
    before: list[str] = []
    for name, layer in list(layers.items()):
        fits = [n for n in before if layers[n].out_features in (layer.in_features, 3 * layer.in_features)]
        if name in _ROWS and fits:
            # Keys and values may be narrower than queries (grouped heads); they go along.
            columns = before if any(n in ("q", "wq", "q_proj", "query", "to_q") for n in before) else fits
            yield {**{prefix + n: "column" for n in columns}, prefix + name: "row"}
            for used in (*columns, name):
                del layers[used]
            before = []
        elif name in _COLUMNS:
            before.append(name)
    yield from _neighbours({prefix + name: layer for name, layer in layers.items()})


def _neighbours(layers: Mapping[str, nn.Linear]) -> Iterator[Unit]:
    """Pairs of layers of which the second takes as much as the first gives."""
    rest = list(layers)
    while len(rest) > 1:
        first, second = rest[0], rest[1]
        is_column = second.rpartition(".")[2] in _COLUMNS
        if layers[first].out_features == layers[second].in_features and not is_column:
            yield {first: "column", second: "row"}
            rest = rest[2:]
        else:
            rest = rest[1:]


def _vocabulary(model: nn.Module, size: int, taken: set[str]) -> Iterator[Unit]:
    words: set[int] = set()
    for name, module in model.named_modules():
        if type(module) is not nn.Embedding or module.num_embeddings % size:
            continue
        if module.max_norm is None and not module.sparse and module.padding_idx is None:
            words.add(module.num_embeddings)
            yield {name: "row"}
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name not in taken and module.out_features in words:
            yield {name: "gathered"}


def _undivided(model: nn.Module, unit: Unit, size: int) -> str:
    for name, way in unit.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Linear):
            what, width = ("inputs", layer.in_features) if way == "row" else ("outputs", layer.out_features)
        else:
            assert isinstance(layer, nn.Embedding)
            what, width = ("words", layer.num_embeddings) if way == "row" else ("columns", layer.embedding_dim)
        if width % size:
            return f"the {width} {what} of {name!r} do not divide by {size}"
    return ""


def _heads(parent: nn.Module, name: str, size: int) -> str:
    for attribute in _HEADS:
        count = getattr(parent, attribute, None)
        if isinstance(count, int) and count % size:
            return f"the {count} heads of {name!r} do not divide by {size}"
    return ""


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={"model.tensor_plan": problem})
