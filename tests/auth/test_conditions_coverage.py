"""Every method whose request names pools or a priority says so in its rule; or it says here why not."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from chassis.method import rule_of
from chassis.request_attributes import attributes_reader
from services.auth import permissions

PACKAGES = ("auth", "inference", "internal", "scheduler", "trainer")
FIELDS = {"pools": FieldDescriptor.TYPE_STRING, "priority": FieldDescriptor.TYPE_INT32}

BY_THE_SERVICE = "the service asks about the resource as it is with the change made to it"
READS = "it only says what would be: nothing runs"
ELSEWHERE = {
    "AccessService.CheckPermissions": READS,
    "AccessService.ExplainPermission": READS,
    "AccessService.PreviewAccessChange": "the pools are those of a condition",
    "AccessService.CreateRoleBinding": "the pools are those of a condition",
    "InferenceService.UpdateDeployment": BY_THE_SERVICE,
    "SchedulerService.UpdateWorkload": BY_THE_SERVICE,
    "PlanningService.WhatIf": READS,
}


def every_method() -> Iterator[MethodDescriptor]:
    for package in PACKAGES:
        folder = importlib.import_module(f"lepton.{package}.v1")
        for module in pkgutil.iter_modules(folder.__path__, f"lepton.{package}.v1."):
            if module.name.endswith("_pb2"):
                for service in importlib.import_module(module.name).DESCRIPTOR.services_by_name.values():
                    yield from service.methods


def asked(message: Descriptor, seen: frozenset[str] = frozenset()) -> set[str]:
    """The names among FIELDS that a caller may set somewhere in a message."""
    found = set[str]()
    for each in message.fields:
        options: Any = each.GetOptions()
        if field_behavior_pb2.OUTPUT_ONLY in options.Extensions[field_behavior_pb2.field_behavior]:
            continue
        if FIELDS.get(each.name) == each.type:
            found.add(each.name)
        if each.message_type is not None and each.message_type.full_name not in seen:
            found |= asked(each.message_type, seen | {message.full_name})
    return found


def test_every_method_that_asks_for_machines_says_where() -> None:
    missing, needless = [], dict(ELSEWHERE)
    for method in every_method():
        name, rule = f"{method.containing_service.name}.{method.name}", rule_of(method)
        assert rule is not None, name
        named = {field for field in FIELDS if getattr(rule, field)}
        if named != asked(method.input_type) and needless.pop(name, None) is None and rule.permission:
            missing.append((name, asked(method.input_type) - named))
    assert not missing, "give the rule `pools` and `priority`, or say here why not"
    assert not needless, "these do not ask for machines any more"


def test_every_path_of_a_rule_leads_somewhere() -> None:
    ruled = [method for method in every_method() if (rule := rule_of(method)) is not None and rule.pools]
    for method in ruled:
        rule = rule_of(method)
        assert rule is not None
        assert attributes_reader(rule, method.input_type) is not None
    assert len(ruled) >= 6


def test_the_coverage_test_sees_a_method_without_the_paths() -> None:
    """The negative control: the rule of CreateJob with its paths taken out would be reported."""
    (create,) = (each for each in every_method() if each.name == "CreateJob")
    assert asked(create.input_type) == {"pools", "priority"}


def test_questions_know_which_permissions_ask_for_machines() -> None:
    assert permissions.asking() == {
        "batchPredictions.create", "deployments.create", "deployments.update", "jobs.create", "optimizations.create",
        "workloads.create", "workloads.update",
    }  # fmt: skip
