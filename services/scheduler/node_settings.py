"""What an operator has set on a node: laid over what its agent declares, and changed field by field."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from lepton.errors import InvalidArgument
from lepton.internal.v1 import ledger_pb2
from lepton.scheduler.v1 import node_pb2

Node = node_pb2.Node
NodeSettings = ledger_pb2.NodeSettings
CHANGEABLE: Final = ("state", "labels", "taints")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_VALUE_LIMIT: Final = 253


def merged(declared: Node, settings: NodeSettings | None) -> Node:
    """The node as everyone sees it. Where both name a label, or a taint's key and effect, the operator is right."""
    if settings is None:
        return declared
    node = Node()
    node.CopyFrom(declared)
    if settings.cordoned:
        node.state = Node.CORDONED
    node.labels.update(settings.labels)
    if settings.taints:
        taints = {_slot(each): each for each in (*declared.taints, *settings.taints)}
        del node.taints[:]
        node.taints.extend(taints[slot] for slot in sorted(taints))
    return node


def changed(settings: NodeSettings, declared: Node, wanted: Node, mask: Sequence[str]) -> NodeSettings:
    """The settings after an update. What the agent declares itself in the same words is not set again.

    Raises InvalidArgument (INVALID_FIELD).
    """
    paths = list(CHANGEABLE) if list(mask) == ["*"] else list(dict.fromkeys(mask))
    unknown = [path for path in paths if path not in CHANGEABLE]
    if unknown:
        raise InvalidArgument("INVALID_FIELD", fields={"update_mask": f"{unknown[0]} cannot be changed"})
    if not paths:
        paths = [path for path in CHANGEABLE if getattr(wanted, path)]
    fields = dict(_violations(wanted, paths))
    if fields:
        raise InvalidArgument("INVALID_FIELD", fields=fields)
    after = NodeSettings()
    after.CopyFrom(settings)
    if "state" in paths:
        after.cordoned = wanted.state == Node.CORDONED
    if "labels" in paths:
        after.labels.clear()
        after.labels.update(
            {key: value for key, value in wanted.labels.items() if declared.labels.get(key, None) != value}
        )
    if "taints" in paths:
        known = {(_slot(each), each.value) for each in declared.taints}
        del after.taints[:]
        after.taints.extend(
            node_pb2.Taint(key=each.key, value=each.value, effect=_effect(each))
            for each in sorted(wanted.taints, key=_slot)
            if (_slot(each), each.value) not in known
        )
    return after


def _violations(wanted: Node, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    if "state" in paths and wanted.state not in (Node.READY, Node.CORDONED):
        yield "node.state", "must be READY or CORDONED"
    if "labels" in paths:
        for key, value in wanted.labels.items():
            if not _LABEL.fullmatch(key):
                yield f"node.labels[{key}]", "must be letters, digits, '.', '_', '/' and '-', at most 253"
            elif len(value) > _VALUE_LIMIT:
                yield f"node.labels[{key}]", f"must have a value of at most {_VALUE_LIMIT} characters"
    if "taints" in paths:
        seen = set[tuple[str, int]]()
        for at, taint in enumerate(wanted.taints):
            if not taint.key:
                yield f"node.taints[{at}].key", "is required"
            elif not _LABEL.fullmatch(taint.key):
                yield f"node.taints[{at}].key", "must be letters, digits, '.', '_', '/' and '-', at most 253"
            elif _slot(taint) in seen:
                yield f"node.taints[{at}]", f"is the second of {taint.key} with the same effect"
            seen.add(_slot(taint))


def _slot(taint: node_pb2.Taint) -> tuple[str, int]:
    """What a node has one taint of at the most."""
    return taint.key, _effect(taint)


def _effect(taint: node_pb2.Taint) -> node_pb2.Taint.Effect.ValueType:
    return taint.effect or node_pb2.Taint.NO_SCHEDULE
