"""The registry of permissions: what the methods of every service of Lepton ask for, read from their protos."""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import Final

from google.protobuf import descriptor_pool

from chassis.method import Rule, rule_of

# What they ask for is what exists with the change made to it: no path into the request leads there.
_CHECKED_BY_SERVICES: Final = frozenset({"deployments.update", "workloads.update"})
_PACKAGES: Final = ("auth", "inference", "internal", "scheduler", "trainer")


@cache
def known() -> frozenset[str]:
    """Every permission that there is."""
    return frozenset(_permissions())


@cache
def asking() -> frozenset[str]:
    """Those whose methods ask for machines, so that conditions on pools and priority concern them."""
    by_rule = (rule.permission for rule in _rules() if rule.pools or rule.priority)
    return frozenset(by_rule) | _CHECKED_BY_SERVICES


def is_pattern(text: str) -> bool:
    """Whether it is a permission that there is, or a pattern that matches one."""
    if text == "*":
        return True
    collection, dot, verb = text.partition(".")
    if not dot:
        return False
    return any(
        collection in (each.partition(".")[0], "*") and verb in (each.partition(".")[2], "*") for each in known()
    )


def _permissions() -> Iterator[str]:
    yield from (rule.permission for rule in _rules() if rule.permission)


def _rules() -> Iterator[Rule]:
    pool = descriptor_pool.Default()
    for package in _PACKAGES:
        folder = importlib.import_module(f"lepton.{package}.v1")
        for module in pkgutil.iter_modules(folder.__path__, f"lepton.{package}.v1."):
            if not module.name.endswith("_pb2"):
                continue
            importlib.import_module(module.name)
            file = pool.FindFileByName(f"{module.name.removesuffix('_pb2').replace('.', '/')}.proto")
            for service in file.services_by_name.values():
                rules = (rule_of(method) for method in service.methods)
                yield from (rule for rule in rules if rule is not None)
