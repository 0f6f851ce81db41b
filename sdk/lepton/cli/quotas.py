"""Quotas as people write them: `[POOL/]RESOURCE=NOMINAL[:BORROW[:LEND]]`, `[POOL/]RESOURCE-` takes one away."""

from collections.abc import Sequence
from typing import Any, Final

import typer

from lepton.cli.plan_terms import figure, number
from lepton.client.pools import pool_name
from lepton.client.queues import floating_resource_name
from lepton.scheduler.v1.queue_pb2 import Quota

_FIELDS: Final = {
    "cpu": ("cpu_milli", 1000),
    "memory": ("memory_bytes", 1),
    "storage": ("storage_bytes", 1),
    "network": ("network_mbps", 1),
    "devices": ("device_milli", 1000),
}
_WORDS: Final = {field: (word, scale) for word, (field, scale) in _FIELDS.items()}
FORM: Final = "[POOL/]RESOURCE=NOMINAL[:BORROW[:LEND]] with cpu, memory, storage, network (Mbit/s) or devices"


def apply_quotas(quotas: Any, marks: Sequence[str], option: str) -> None:
    """Set and take away quotas in a repeated field."""
    known = {(each.pool, each.resource): each for each in quotas}
    for mark in marks:
        left, is_set, right = mark.partition("=")
        pool, _, word = left.removesuffix("-").rpartition("/")
        field, scale = _FIELDS.get(word, ("", 0))
        amounts = right.split(":") if is_set else []
        is_wrong = not field or len(amounts) > 3 or (is_set and not amounts[0])
        if is_wrong or bool(is_set) == (left.endswith("-") and not is_set):
            raise typer.BadParameter(f"{mark} in {option}: write {FORM}, or [POOL/]RESOURCE- to take it away")
        slot = (pool_name(pool) if pool else "", field)
        if not is_set:
            known.pop(slot, None)
            continue
        nominal, borrow, lend = (int(number(each, option) * scale) if each else None for each in (*amounts, "", "")[:3])
        known[slot] = Quota(
            pool=slot[0], resource=field, nominal=nominal or 0, borrowing_limit=borrow, lending_limit=lend
        )
    del quotas[:]
    quotas.extend(known[slot] for slot in sorted(known))


def held(marks: Sequence[str]) -> dict[str, int]:
    """Amounts of floating resources, by name."""
    amounts: dict[str, int] = {}
    for mark in marks:
        resource, _, text = mark.partition("=")
        if not resource or not text.isdecimal() or not int(text):
            raise typer.BadParameter(f"{mark} in --floating: write RESOURCE=AMOUNT, a whole number above 0")
        amounts[floating_resource_name(resource)] = int(text)
    return amounts


def shown_quota(quota: Quota) -> str:
    """A quota, as it is written."""
    word, scale = _WORDS[quota.resource]
    limits = [
        figure(getattr(quota, field) / scale) if quota.HasField(field) else ""
        for field in ("borrowing_limit", "lending_limit")
    ]
    amounts = ":".join([figure(quota.nominal / scale), *limits]).rstrip(":")
    return f"{_flavour(quota)}{word}={amounts}"


def shown_use(quota: Quota, used: int) -> str:
    """What is used of a quota."""
    word, scale = _WORDS[quota.resource]
    return f"{_flavour(quota)}{word} {figure(used / scale)}/{figure(quota.nominal / scale)}"


def _flavour(quota: Quota) -> str:
    return f"{quota.pool.rpartition('/')[2]}/" if quota.pool else ""
