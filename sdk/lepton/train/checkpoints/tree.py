"""The nesting of a state: taken apart into a tree of plain values and tensors by path, and put together again.

A path joins the keys from the top with `/`: `model/layer.weight`, `optimizer/state/0/exp_avg`. A node of the tree:

    {"tensor": path}   {"map": [[key, node], ..]}   {"list": [node, ..]}   {"tuple": [node, ..]}   {"value": plain}
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from lepton.errors import InvalidArgument

Node = dict[str, Any]
_PLAIN: Final = (bool, int, float, str)


def flatten(state: Mapping[str, Any]) -> tuple[Node, dict[str, torch.Tensor]]:
    """The tree of a state and its tensors by path; InvalidArgument naming what only pickle could keep."""
    tensors: dict[str, torch.Tensor] = {}
    return _flatten(state, "", tensors), tensors


def merge(trees: Sequence[Node]) -> Node:
    """The union of the ranks' trees, in the order of the ranks.

    Mappings are joined key by key, lists place by place (the longest decides; of lists that hold only plain values the
    later ones add what is new in them). Where ranks hold different plain values under one key, the lowest rank's
    counts.
    """
    first, *others = trees
    if not others or all(tree == first for tree in others):
        return first
    alike = [first, *(tree for tree in others if tree.keys() == first.keys())]
    if "map" in first:
        nodes: dict[Any, list[Node]] = {}
        for tree in alike:
            for key, node in tree["map"]:
                nodes.setdefault(key, []).append(node)
        return {"map": [[key, merge(found)] for key, found in nodes.items()]}
    for kind in ("list", "tuple"):
        if kind in first:
            return {kind: _merged_places([tree[kind] for tree in alike])}
    return first


def rebuild(node: Node, read: Callable[[str], torch.Tensor]) -> Any:
    """The state that a tree describes, its tensors got from `read`."""
    if "tensor" in node:
        return read(node["tensor"])
    if "map" in node:
        return {key: rebuild(item, read) for key, item in node["map"]}
    if "list" in node:
        return [rebuild(item, read) for item in node["list"]]
    if "tuple" in node:
        return tuple(rebuild(item, read) for item in node["tuple"])
    return node["value"]


def children(node: Node) -> Mapping[Any, Node]:
    """The nodes right below one, by key or by place."""
    if "map" in node:
        return dict(node["map"])
    places: list[Node] = node["list"] if "list" in node else node.get("tuple", [])
    return dict(enumerate(places))


def _flatten(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Node:
    if isinstance(value, torch.Tensor):
        if path in tensors:
            raise _refused(path, "has the same path as another tensor; rename one of its keys")
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"map": [[_key(key, path), _flatten(item, _below(path, key), tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(item, _below(path, place), tensors) for place, item in enumerate(value)]}
    if value is None or isinstance(value, _PLAIN):
        return {"value": value}
    raise _refused(path, f"is a {type(value).__name__}; keep tensors, numbers and texts only")


def _merged_places(lists: Sequence[list[Node]]) -> list[Node]:
    if all("value" in node for nodes in lists for node in nodes):
        seen: list[Node] = list(lists[0])
        for nodes in lists[1:]:
            seen += [node for node in nodes if node not in seen]
        return seen
    longest = max(map(len, lists))
    return [merge([nodes[place] for nodes in lists if place < len(nodes)]) for place in range(longest)]


def _key(key: Any, path: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise _refused(_below(path, key), f"has a {type(key).__name__} as its key; keep texts and whole numbers only")


def _below(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _refused(path: str, problem: str) -> InvalidArgument:
    return InvalidArgument("INVALID_FIELD", fields={f"state.{path}" if path else "state": problem})
