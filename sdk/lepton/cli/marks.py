"""Labels, taints and membership rules as people write them: `key=value`, `key-` takes away; `key=value:NO_EXECUTE`."""

from collections.abc import MutableMapping, Sequence
from typing import Final

import typer

from lepton.cli.plan_terms import number
from lepton.scheduler.v1.node_pb2 import Node, Taint
from lepton.scheduler.v1.pool_pb2 import MembershipRule
from lepton.scheduler.v1.resources_pb2 import Resources

_EFFECTS: Final = {name.replace("_", ""): value for name, value in Taint.Effect.items() if value}
_AMOUNTS: Final = {
    "cpu": ("cpu_milli", 1000),
    "memory": ("memory_bytes", 1),
    "storage": ("storage_bytes", 1),
    "network": ("network_mbps", 1),
    "devices": ("device_milli", 1000),
}
AT_LEAST: Final = "RESOURCE=AMOUNT with cpu, memory, storage, network (Mbit/s) or devices"


def apply_labels(labels: MutableMapping[str, str], marks: Sequence[str]) -> None:
    """Set and take away labels."""
    for mark in marks:
        key, is_set, value = mark.partition("=")
        if is_set and key:
            labels[key] = value
        elif not is_set and key.endswith("-") and len(key) > 1:
            labels.pop(key[:-1], None)
        else:
            raise typer.BadParameter(f"{mark}: write KEY=VALUE, or KEY- to take it away")


def apply_taints(node: Node, marks: Sequence[str]) -> None:
    """Set and take away taints; without an effect all of a key are taken away."""
    taints = {(each.key, each.effect): each for each in node.taints}
    for mark in marks:
        text, is_gone = mark.removesuffix("-"), mark.endswith("-")
        words, has_effect, effect = text.partition(":")
        key, _, value = words.partition("=")
        number_ = _effect(effect, mark) if has_effect else Taint.NO_SCHEDULE
        if not key:
            raise typer.BadParameter(f"{mark}: write KEY[=VALUE][:EFFECT], or KEY[:EFFECT]- to take it away")
        if is_gone:
            taints = {
                slot: each for slot, each in taints.items() if slot[0] != key or (has_effect and slot[1] != number_)
            }
        else:
            taints[key, number_] = Taint(key=key, value=value, effect=number_)
    del node.taints[:]
    node.taints.extend(taints.values())


def rule(match: Sequence[str], at_least: Sequence[str], models: Sequence[str], precedence: int) -> MembershipRule:
    """A membership rule."""
    made = MembershipRule(precedence=precedence)
    apply_labels(made.match_labels, match)
    if at_least or models:
        made.at_least.CopyFrom(_resources(at_least, models))
    return made


def _resources(amounts: Sequence[str], models: Sequence[str]) -> Resources:
    made = Resources(device_models=models)
    for each in amounts:
        name, _, text = each.partition("=")
        if name not in _AMOUNTS:
            raise typer.BadParameter(f"{each}: write {AT_LEAST}")
        field, scale = _AMOUNTS[name]
        setattr(made, field, int(number(text, "--at-least") * scale))
    return made


def _effect(text: str, mark: str) -> Taint.Effect.ValueType:
    effect = _EFFECTS.get(text.replace("_", "").upper())
    if effect is None:
        raise typer.BadParameter(f"{mark}: the effect is NO_SCHEDULE, PREFER_NO_SCHEDULE or NO_EXECUTE")
    return Taint.Effect.ValueType(effect)
