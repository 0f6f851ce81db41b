"""Every RPC of every service, from the descriptors, and the request with which a tenant makes use of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Any, Final

from google.api import field_behavior_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

import lepton
from chassis.method import Rule, rule_of
from lepton.inference.v1 import model_pb2, optimization_pb2
from lepton.scheduler.v1 import workload_pb2
from tests.tenancy.population import (
    CHECK,
    Belongings,
    batch_of,
    exemption_of,
    job_of,
    labels_of,
    policy_of,
    trust_of,
    workload_of,
)

READY: Final = workload_pb2.AdmissionCheck.READY
_NO_SIDE_EFFECTS: Final = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method."""

    descriptor: MethodDescriptor

    @property
    def name(self) -> str:
        return self.descriptor.name

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.name}"

    @property
    def rule(self) -> Rule:
        return rule_of(self.descriptor) or Rule()

    @property
    def streams_requests(self) -> bool:
        return self.descriptor.client_streaming

    @property
    def streams_responses(self) -> bool:
        return self.descriptor.server_streaming

    @property
    def is_in_project(self) -> bool:
        """Whether its rule asks for a permission on a resource, which a tenant's projects hold."""
        return bool(self.rule.resource)

    @property
    def is_read(self) -> bool:
        """Whether calling it changes nothing."""
        return bool(self.descriptor.GetOptions().idempotency_level == _NO_SIDE_EFFECTS)

    def empty(self) -> Any:
        """A request without anything."""
        return message_factory.GetMessageClass(self.descriptor.input_type)()

    def request(self, tenant: Belongings, fresh: str) -> Any:
        """The request of a tenant about its own: valid, and answered unless its state is against it."""
        made = self.empty()
        if (template := TEMPLATES.get(self.name)) is not None:
            template(made, tenant, fresh)
        self._name(made, tenant)
        for field in made.DESCRIPTOR.fields:
            if field.name.endswith("_id") and field.name != "request_id" and not getattr(made, field.name):
                setattr(made, field.name, fresh)
        return made

    def resource(self, request: Any) -> str:
        """What its rule asks for a permission on."""
        value = request
        for part in self.rule.resource.split("."):
            value = getattr(value, part)
        return str(value)

    def answer(self, data: bytes) -> Message:
        """A message that the method answers."""
        answer: Message = message_factory.GetMessageClass(self.descriptor.output_type).FromString(data)
        return answer

    def kind(self, tenant: Belongings) -> str:
        """The kind of resource that it is about, of those that a tenant has; empty when it has none of it."""
        found = [kind for kind in (*tenant.names, *ALIASES) if kind in self.name]
        longest = max(found, key=len, default="")
        return ALIASES.get(longest, longest)

    def _name(self, request: Any, tenant: Belongings) -> None:
        about = tenant.names.get(self.kind(tenant), "")
        path = self.rule.resource or next((each for each in ("name", "parent") if each in _fields(request)), "")
        if not path or not about:
            return
        *above, last = path.split(".")
        holder = request
        for part in above:
            holder = getattr(holder, part)
        if last in holder.DESCRIPTOR.fields_by_name and not getattr(holder, last):
            # Where the parent is asked for and the kind is its own child, it is what the name lies in.
            is_parent = last == "parent" and about.count("/") > 1
            setattr(holder, last, about.rpartition("/")[0].rpartition("/")[0] if is_parent else about)


def _fields(message: Any) -> Iterable[str]:
    names: Iterable[str] = message.DESCRIPTOR.fields_by_name
    return names


ALIASES: Final[Mapping[str, str]] = {
    "DeploymentRollout": "Deployment",
    "Logs": "Job",
    "Metrics": "Job",
    "ModelAlias": "Model",
    "ModelLineage": "ModelVersion",
    "AdmissionCheck": "Workload",
    "Utilization": "Project",
    "CompliancePolicies": "CompliancePolicy",
    "ComplianceFindings": "Project",
    "ComplianceReport": "Project",
    "SecretVersion": "Secret",
}
"""What is called otherwise in the name of a method than in that of the resource it is about."""


@cache
def every_rpc() -> tuple[Rpc, ...]:
    """All methods of all services, in the order of their names."""
    found = []
    for module in walk_packages(lepton.__path__, "lepton."):
        if not module.name.endswith("_pb2"):
            continue
        file = descriptor_pool.Default().FindFileByName(import_module(module.name).DESCRIPTOR.name)
        for service in file.services_by_name.values():
            found += [Rpc(method) for method in service.methods]
    return tuple(sorted(found, key=lambda rpc: rpc.path))


def string_fields(
    message: Any, *, outputs: bool = False, path: tuple[str, ...] = (), above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """The dotted paths of all fields of a kind of message, at any depth, that hold text.

    With `outputs` those too that only the service sets, which is cleared in requests.
    """
    for field in message.fields:
        here, inner = (*path, field.name), field.message_type
        behaviour = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
        if field_behavior_pb2.OUTPUT_ONLY in behaviour and not outputs:
            continue
        if inner is not None and inner.GetOptions().map_entry:
            if inner.fields_by_name["key"].type == field.TYPE_STRING:
                yield ".".join(here)
        elif inner is not None:
            if not inner.full_name.startswith("google.") and inner.full_name not in above:
                yield from string_fields(inner, outputs=outputs, path=here, above=above | {message.full_name})
        elif field.type == field.TYPE_STRING:
            yield ".".join(here)


def put(request: Any, path: str, value: str) -> None:
    """Write a text into a field: into the first of repeated messages, as the only one of repeated texts."""
    *above, last = path.split(".")
    holder = request
    for part in above:
        field = holder.DESCRIPTOR.fields_by_name[part]
        inner = getattr(holder, part)
        holder = (inner[0] if len(inner) else inner.add()) if field.is_repeated else inner
    field = holder.DESCRIPTOR.fields_by_name[last]
    if field.message_type is not None:
        kept = field.message_type.fields_by_name["value"]
        mapping = getattr(holder, last)
        if kept.message_type is None:
            mapping["LEPTON" if kept.type == kept.TYPE_STRING else value] = (
                value if kept.type == kept.TYPE_STRING else kept.default_value
            )
    elif field.is_repeated:
        getattr(holder, last)[:] = [value]
    else:
        setattr(holder, last, value)


def _create_version(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.parent = tenant.names["Model"]
    request.model_version.package = tenant.digests["package"]


def _create_labels(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.digest = tenant.digests["rows"]
    request.data_labels.CopyFrom(labels_of(tenant))


def _deployment(deployment: Any, tenant: Belongings) -> None:
    deployment.model_version, deployment.replicas = tenant.names["ModelVersion"], 1


def _update_workload(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.workload.CopyFrom(workload_of(tenant, priority=1))
    request.update_mask.paths.append("priority")


def _create_binding(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.parent = tenant.project
    request.role_binding.role = "roles/viewer"
    request.role_binding.members.append(tenant.names["ServiceAccount"])


def _preview(request: Any, tenant: Belongings, fresh: str) -> None:
    _create_binding(request.create_role_binding, tenant, fresh)
    request.create_role_binding.role_binding_id = fresh


def _batch_create(request: Any, tenant: Belongings, fresh: str) -> None:
    request.parent = tenant.project
    request.requests.add(parent=tenant.project, workload_id=fresh, workload=workload_of(tenant))


def _what_if(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.parent = tenant.project
    request.changes.add(remove_workload=tenant.names["Workload"])


def _quarantine(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.parent, request.source = tenant.project, tenant.digests["dataset"]


def _permission(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.resource = tenant.names["Job"]
    if "permissions" in request.DESCRIPTOR.fields_by_name:
        request.permissions.append("jobs.get")
    else:
        request.permission = "jobs.get"


def _upload(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.parent, request.digest = tenant.project, tenant.digests["dataset"]


def _session_of_node(request: Any, tenant: Belongings, _fresh: str) -> None:
    request.hello.node.name = f"pools/general/nodes/{tenant.word}"


TEMPLATES: Final[Mapping[str, Callable[[Any, Belongings, str], None]]] = {
    "AnalyzeTaint": _quarantine,
    "BatchCreateWorkloads": _batch_create,
    "CheckPermissions": _permission,
    "AddSecretVersion": lambda request, tenant, _: setattr(request, "value", tenant.secret.encode()),
    "CreateApiKey": lambda request, tenant, _: setattr(request, "parent", tenant.names["ServiceAccount"]),
    "CreateBatchPrediction": lambda request, tenant, _: request.batch_prediction.CopyFrom(batch_of(tenant)),
    "CreateComplianceExemption": lambda request, tenant, _: request.exemption.CopyFrom(exemption_of(tenant)),
    "CreateCompliancePolicy": lambda request, tenant, _: request.compliance_policy.CopyFrom(policy_of(tenant)),
    "CreateDataLabels": _create_labels,
    "CreateDeployment": lambda request, tenant, _: _deployment(request.deployment, tenant),
    "CreateJob": lambda request, tenant, _: request.job.CopyFrom(job_of(tenant)),
    "CreateModelVersion": _create_version,
    "CreateOptimization": lambda request, tenant, _: request.optimization.MergeFrom(
        optimization_pb2.Optimization(model_version="1", variants=["fp16"], cpu_milli=10)
    ),
    "CreateRoleBinding": _create_binding,
    "CreateSecret": lambda request, tenant, _: setattr(request, "value", tenant.secret.encode()),
    "CreateWorkload": lambda request, tenant, _: request.workload.CopyFrom(workload_of(tenant)),
    "CreateWorkloadTrust": lambda request, tenant, _: request.workload_trust.CopyFrom(trust_of(tenant)),
    "DestroySecretVersion": lambda request, tenant, _: setattr(request, "version", 1),
    "ExplainPermission": _permission,
    "GetUpload": _upload,
    "OpenSession": _session_of_node,
    "PlanAllocation": lambda request, tenant, _: request.demands.add(name="one", amounts={"cpu_milli": 1.0}) and None,
    "PlanBalancing": lambda request, tenant, _: request.targets.add(name="one") and None,
    "PreviewAccessChange": _preview,
    "QuarantineModels": _quarantine,
    "QueryAudit": lambda request, tenant, _: setattr(request, "parent", tenant.project),
    "ReleaseModels": _quarantine,
    "SetAdmissionCheck": lambda request, tenant, _: request.MergeFrom(type(request)(check=CHECK, state=READY)),
    "SetModelAlias": lambda request, tenant, fresh: request.MergeFrom(type(request)(alias=fresh, version=1)),
    "StartRun": lambda request, tenant, _: setattr(request, "job", tenant.names["Job"]),
    "TransitionModelVersionStage": lambda request, tenant, _: setattr(request, "stage", model_pb2.ModelVersion.STAGING),
    "ShredProject": lambda request, tenant, _: setattr(request, "confirmation", tenant.word),
    "UpdateCompliancePolicy": lambda request, tenant, _: request.compliance_policy.CopyFrom(policy_of(tenant)),
    "UpdateDataLabels": lambda request, tenant, _: request.data_labels.CopyFrom(labels_of(tenant)),
    "UpdateDeployment": lambda request, tenant, _: _deployment(request.deployment, tenant),
    "UpdateModel": lambda request, tenant, fresh: setattr(request.model, "description", fresh),
    "UpdateModelVersion": lambda request, tenant, fresh: setattr(request.model_version, "description", fresh),
    "UpdateWorkload": _update_workload,
    "UploadArtifact": lambda request, tenant, _: setattr(request, "parent", tenant.project),
    "WhatIf": _what_if,
}
"""What a request needs beside the name of what it is about."""

__all__ = ["ALIASES", "TEMPLATES", "Rpc", "every_rpc", "put", "string_fields"]
