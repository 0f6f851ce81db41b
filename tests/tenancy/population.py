"""What a tenant has: one resource of every kind that lies in a project, made through the services' own methods."""

import io
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from safetensors.numpy import save

from lepton.auth.v1 import (
    access_service_pb2,
    compliance_pb2,
    compliance_service_pb2,
    directory_service_pb2,
    federation_service_pb2,
    principal_pb2,
    role_binding_pb2,
    secret_service_pb2,
    workload_trust_pb2,
)
from lepton.auth.v1.access_service_pb2_grpc import AccessServiceStub
from lepton.auth.v1.compliance_service_pb2_grpc import ComplianceServiceStub
from lepton.auth.v1.directory_service_pb2_grpc import DirectoryServiceStub
from lepton.auth.v1.federation_service_pb2_grpc import FederationServiceStub
from lepton.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from lepton.errors import LeptonError
from lepton.inference.v1 import (
    batch_prediction_pb2,
    batch_prediction_service_pb2,
    deployment_pb2,
    inference_service_pb2,
    model_pb2,
    optimization_pb2,
    optimization_service_pb2,
)
from lepton.inference.v1.batch_prediction_service_pb2_grpc import BatchPredictionServiceStub
from lepton.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from lepton.inference.v1.optimization_service_pb2_grpc import OptimizationServiceStub
from lepton.internal.v1 import run_report_pb2 as report
from lepton.internal.v1.run_report_pb2_grpc import RunReportServiceStub
from lepton.models import Architecture, ModelPackage, Signature, Tensor
from lepton.models.package import GOLDEN, WEIGHTS
from lepton.names import JobName
from lepton.scheduler.v1 import program_pb2, resources_pb2, scheduler_service_pb2, workload_pb2
from lepton.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from lepton.trainer.v1 import artifact_service_pb2, job_pb2, trainer_service_pb2
from lepton.trainer.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from lepton.trainer.v1.trainer_service_pb2_grpc import TrainerServiceStub
from services.trainer.store import JobStore
from tests.harness.wait import until
from tests.tenancy.world import CI, LICENCE, NODE, POOL, QUEUE, World

SIGNATURE: Final = Signature(
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
    outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 2)),),
)


CHECK: Final = "review"
"""What a tenant's workloads wait for."""
ORGANISATIONS: Final = {
    "FloatingResource": f"floatingResources/{LICENCE}",
    "Node": f"pools/{POOL}/nodes/{NODE}",
    "Pool": f"pools/{POOL}",
    "Queue": f"queues/{QUEUE}",
    "Role": "roles/viewer",
    "User": "users/admin",
}
"""What belongs to no tenant, by its kind; every tenant may name it."""


@dataclass(kw_only=True)
class Belongings:
    """A tenant: who it is, and what of each kind it has. Ids begin with `word`; `secret` is its own."""

    word: str
    user: str
    token: str
    names: dict[str, str] = field(default_factory=dict)  # by the collection's singular: the resource's name
    digests: dict[str, str] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)
    request_id: str = ""

    @property
    def project(self) -> str:
        return f"projects/{self.word}"

    @property
    def secret(self) -> str:
        """In labels, texts, variables and lines of output: nobody else has a reason to say it."""
        return f"private-to-{self.word}"


async def populate(world: World, word: str, request_id: str) -> Belongings:
    """A new tenant with all that a tenant can have."""
    tenant = Belongings(word=word, user=f"users/{word}-admin", token="", request_id=request_id)
    tenant.token = await world.tenant(word, f"{word}-admin")
    tenant.names["Project"] = tenant.project
    tenant.names |= ORGANISATIONS
    await _directory(world, tenant)
    await _artifacts(world, tenant)
    await _guarded(world, tenant)
    await _training(world, tenant)
    await _serving(world, tenant)
    await _scheduling(world, tenant)
    return tenant


def keep(tenant: Belongings, kind: str, resource: Any) -> Any:
    """Remember a resource of a kind."""
    tenant.names[kind] = resource.name
    if getattr(resource, "uid", ""):
        tenant.uids[kind] = resource.uid
    return resource


async def _directory(world: World, tenant: Belongings) -> None:
    stub: Any = DirectoryServiceStub(await world.connect("auth", tenant.token))
    account = principal_pb2.ServiceAccount(display_name=tenant.secret)
    keep(
        tenant,
        "ServiceAccount",
        await stub.CreateServiceAccount(
            directory_service_pb2.CreateServiceAccountRequest(
                parent=tenant.project, service_account_id=f"{tenant.word}-account", service_account=account
            )
        ),
    )
    for number in (1, 2):
        key = await stub.CreateApiKey(
            directory_service_pb2.CreateApiKeyRequest(
                parent=tenant.names["ServiceAccount"], api_key_id=f"{tenant.word}-key{number}"
            )
        )
        keep(tenant, "ApiKey", key)
    roles: Any = AccessServiceStub(await world.connect("auth", tenant.token))
    binding = role_binding_pb2.RoleBinding(role="roles/viewer", members=[tenant.names["ServiceAccount"]])
    keep(
        tenant,
        "RoleBinding",
        await roles.CreateRoleBinding(
            access_service_pb2.CreateRoleBindingRequest(
                parent=tenant.project, role_binding_id=f"{tenant.word}-viewers", role_binding=binding
            )
        ),
    )


async def _guarded(world: World, tenant: Belongings) -> None:
    """What says who may do what with what: secrets, policies, labels, and trust in others."""
    connection = await world.connect("auth", tenant.token)
    secrets: Any = SecretServiceStub(connection)
    compliance: Any = ComplianceServiceStub(connection)
    federation: Any = FederationServiceStub(connection)
    for number in ("", "2"):
        secret = secret_service_pb2.CreateSecretRequest(
            parent=tenant.project, secret_id=f"{tenant.word}-secret{number}", value=tenant.secret.encode()
        )
        made = await secrets.CreateSecret(secret)
        if not number:
            keep(tenant, "Secret", made)
    policy = compliance_service_pb2.CreateCompliancePolicyRequest(
        parent=tenant.project, compliance_policy_id=f"{tenant.word}-policy", compliance_policy=policy_of(tenant)
    )
    keep(tenant, "CompliancePolicy", await compliance.CreateCompliancePolicy(policy))
    exemption = compliance_service_pb2.CreateComplianceExemptionRequest(
        parent=tenant.names["CompliancePolicy"], exemption_id=f"{tenant.word}-exemption", exemption=exemption_of(tenant)
    )
    keep(tenant, "ComplianceExemption", await compliance.CreateComplianceExemption(exemption))
    labels = compliance_service_pb2.CreateDataLabelsRequest(
        parent=tenant.project, digest=tenant.digests["dataset"], data_labels=labels_of(tenant)
    )
    keep(tenant, "DataLabels", await compliance.CreateDataLabels(labels))
    trust = federation_service_pb2.CreateWorkloadTrustRequest(
        parent=tenant.names["ServiceAccount"], workload_trust_id=f"{tenant.word}-trust", workload_trust=trust_of(tenant)
    )
    keep(tenant, "WorkloadTrust", await federation.CreateWorkloadTrust(trust))


def policy_of(tenant: Belongings) -> compliance_pb2.CompliancePolicy:
    """A policy that keeps nobody from anything."""
    rule = compliance_pb2.ComplianceRule(id="licences")
    rule.license.kind, rule.license.allowed[:] = compliance_pb2.LicenseRule.MODELS, ["MIT"]
    mode = compliance_pb2.CompliancePolicy.DRY_RUN
    return compliance_pb2.CompliancePolicy(display_name=tenant.secret, mode=mode, rules=[rule])


def exemption_of(tenant: Belongings) -> compliance_pb2.ComplianceExemption:
    """What a policy does not count for, for a year."""
    exemption = compliance_pb2.ComplianceExemption(
        resource=f"{tenant.project}/models/{tenant.word}-model", reason=tenant.secret
    )
    exemption.expire_time.FromDatetime(datetime.now(UTC).replace(tzinfo=None) + timedelta(days=300))
    return exemption


def labels_of(tenant: Belongings) -> compliance_pb2.DataLabels:
    """What is said of a dataset."""
    return compliance_pb2.DataLabels(labels={"team": tenant.secret})


def trust_of(tenant: Belongings) -> workload_trust_pb2.WorkloadTrust:
    """Whose tokens stand for a service account."""
    return workload_trust_pb2.WorkloadTrust(
        display_name=tenant.secret, issuer=CI.issuer, subject=f"repo:{tenant.word}/", audience=CI.workload_audiences[0]
    )


async def _artifacts(world: World, tenant: Belongings) -> None:
    golden = {"x": np.zeros((2, 4), np.float32), "logits": np.zeros((2, 2), np.float32)}
    own = zlib.crc32(tenant.word.encode()) % 1000  # so that no two tenants have the same bytes
    rows = io.BytesIO()
    np.savez(rows, x=np.full((8, 4), own, np.float32))
    files = {
        WEIGHTS: await upload(world, tenant, save({"w": np.full(3, own, np.float32)})),
        GOLDEN: await upload(world, tenant, save(golden)),
    }
    package = ModelPackage(
        architecture=Architecture(),
        files=files,
        signature=SIGNATURE,
        metrics={"accuracy": 0.9},
        lineage={"job": f"{tenant.project}/jobs/{tenant.word}-job", "dataset": "sha256:" + "1" * 64},
    )
    tenant.digests["dataset"] = await upload(world, tenant, tenant.secret.encode())
    tenant.digests["rows"] = await upload(world, tenant, rows.getvalue())
    tenant.digests["weights"] = files[WEIGHTS]
    tenant.digests["package"] = await upload(world, tenant, package.render())
    tenant.names["Artifact"] = f"{tenant.project}/artifacts/{tenant.digests['dataset'].removeprefix('sha256:')}"


async def upload(world: World, tenant: Belongings, data: bytes) -> str:
    """Bytes of a tenant in the store; their digest."""
    stub: Any = ArtifactServiceStub(await world.connect("trainer", tenant.token))

    async def parts() -> AsyncIterator[artifact_service_pb2.UploadArtifactRequest]:
        yield artifact_service_pb2.UploadArtifactRequest(parent=tenant.project, data=data)

    digest: str = (await stub.UploadArtifact(parts())).digest
    return digest


async def _training(world: World, tenant: Belongings) -> None:
    stub: Any = TrainerServiceStub(await world.connect("trainer", tenant.token))
    request = trainer_service_pb2.CreateJobRequest(
        parent=tenant.project, job_id=f"{tenant.word}-job", job=job_of(tenant), request_id=tenant.request_id
    )
    job = keep(tenant, "Job", await stub.CreateJob(request))
    second = trainer_service_pb2.CreateJobRequest(
        parent=tenant.project, job_id=f"{tenant.word}-job2", job=job_of(tenant)
    )
    await stub.CreateJob(second)
    proof = await world.auth.join(f"agent/{NODE}")
    agent: Any = RunReportServiceStub(await world.peer("trainer", proof))
    jobs = JobStore(world.auth.kv)
    found: list[str] = []

    async def is_open() -> bool:
        """The trainer has told which workload runs the job; the agent has opened its first generation."""
        uid = await jobs.workload_uid(JobName.parse(job.name))
        if not uid:
            return False
        try:
            start = report.StartRunRequest(job=job.name, generation=1, workload_uid=uid, world_size=1)
            await agent.StartRun(start)
        except LeptonError:
            return False
        found.append(uid)
        return True

    await until(is_open)
    tenant.uids["TrainingWorkload"] = found[0]
    await _reports(world, tenant, agent, job.name)
    listed = await stub.ListCheckpoints(trainer_service_pb2.ListCheckpointsRequest(parent=job.name))
    tenant.names["Checkpoint"] = listed.checkpoints[0].name
    found_job = await stub.GetJob(trainer_service_pb2.GetJobRequest(name=job.name))
    tenant.names["TrainingWorkload"] = found_job.workload


def job_of(tenant: Belongings, **fields: Any) -> job_pb2.Job:
    """A job as a tenant submits one."""
    given: dict[str, Any] = {
        "display_name": tenant.secret,
        "labels": {"team": tenant.secret},
        "bundle": job_pb2.CodeBundle(
            digest=tenant.digests["weights"], entry_point="train.py", environment={"PRIVATE": tenant.secret}
        ),
        "dataset": tenant.digests["dataset"],
        "workers": job_pb2.Workers(count=1, devices=0, cpu_milli=10, memory_bytes=1 << 20),
    }
    return job_pb2.Job(**{**given, **fields})


async def _reports(world: World, tenant: Belongings, agent: Any, job: str) -> None:
    """Output, measurements and two checkpoints of the job's first generation."""
    file = await upload(world, tenant, f"{tenant.secret} weights".encode())
    size = len(f"{tenant.secret} weights")
    events = [report.RunEvent(output=report.OutputLine(text=f"{tenant.secret} line"))]
    measured = report.Measurement(step=1, total_steps=9, values={f"{tenant.secret}/loss": 0.5})
    events.append(report.RunEvent(measurement=measured))
    for step in (1, 2):
        manifest = await upload(
            world, tenant, json.dumps({"step": step, "files": [{"digest": file, "size": size}]}).encode()
        )
        written = report.CheckpointWritten(step=step, manifest=manifest, metrics={f"{tenant.secret}/loss": 0.5})
        events.append(report.RunEvent(checkpoint=written))
        tenant.digests["checkpoint"] = manifest
    for number, event in enumerate(events, 1):
        event.sequence = number
        event.time.GetCurrentTime()

    async def batches() -> AsyncIterator[report.ReportRunRequest]:
        yield report.ReportRunRequest(job=job, generation=1, rank=0, events=events)

    async for answer in agent.ReportRun(batches()):
        assert not answer.refused, answer.refused


async def _serving(world: World, tenant: Belongings) -> None:
    connection = await world.connect("inference", tenant.token)
    stub: Any = InferenceServiceStub(connection)
    for number in ("", "2"):
        model = inference_service_pb2.CreateModelRequest(
            parent=tenant.project,
            model_id=f"{tenant.word}-model{number}",
            model=model_pb2.Model(description=tenant.secret, tags={"team": tenant.secret}),
        )
        await stub.CreateModel(model)
        tenant.names.setdefault("Model", f"{tenant.project}/models/{tenant.word}-model")
    for _ in range(2):
        version = model_pb2.ModelVersion(package=tenant.digests["package"], description=tenant.secret)
        request = inference_service_pb2.CreateModelVersionRequest(parent=tenant.names["Model"], model_version=version)
        added = await stub.CreateModelVersion(request)
        tenant.names.setdefault("ModelVersion", added.name)
    alias = inference_service_pb2.SetModelAliasRequest(
        name=tenant.names["Model"], alias=f"{tenant.word}-best", version=1
    )
    tenant.uids["Model"] = (await stub.SetModelAlias(alias)).uid
    for number in ("", "2"):
        wanted = deployment_pb2.Deployment(
            model_version=tenant.names["ModelVersion"], replicas=1, display_name=tenant.secret
        )
        deployment = inference_service_pb2.CreateDeploymentRequest(
            parent=tenant.project, deployment_id=f"{tenant.word}-serving{number}", deployment=wanted
        )
        made = await stub.CreateDeployment(deployment)
        if not number:
            keep(tenant, "Deployment", made)
    tenant.names["DeploymentRevision"] = f"{tenant.names['Deployment']}/revisions/1"
    changed = deployment_pb2.Deployment(
        name=tenant.names["Deployment"], model_version=tenant.names["ModelVersion"], replicas=1, cpu_milli=200
    )
    await stub.UpdateDeployment(inference_service_pb2.UpdateDeploymentRequest(deployment=changed))
    await _derived(tenant, connection)


async def _derived(tenant: Belongings, connection: Any) -> None:
    """What is made from a version."""
    searches: Any = OptimizationServiceStub(connection)
    batches: Any = BatchPredictionServiceStub(connection)
    for number in ("", "2"):
        search = optimization_service_pb2.CreateOptimizationRequest(
            parent=tenant.names["Model"],
            optimization_id=f"{tenant.word}-search{number}",
            optimization=optimization_pb2.Optimization(
                display_name=tenant.secret, model_version="1", variants=["fp16"], cpu_milli=10
            ),
        )
        made = await searches.CreateOptimization(search)
        prediction = batch_prediction_service_pb2.CreateBatchPredictionRequest(
            parent=tenant.project,
            batch_prediction_id=f"{tenant.word}-batch{number}",
            batch_prediction=batch_of(tenant),
        )
        predicted = await batches.CreateBatchPrediction(prediction)
        if not number:
            keep(tenant, "Optimization", made)
            keep(tenant, "BatchPrediction", predicted)


def batch_of(tenant: Belongings) -> batch_prediction_pb2.BatchPrediction:
    """A batch prediction as a tenant asks for one."""
    return batch_prediction_pb2.BatchPrediction(
        display_name=tenant.secret,
        labels={"team": tenant.secret},
        model_version=tenant.names["ModelVersion"],
        input=batch_prediction_pb2.BatchInput(
            artifact=tenant.digests["rows"], format=batch_prediction_pb2.BatchInput.NPZ
        ),
        max_workers=1,
    )


async def _scheduling(world: World, tenant: Belongings) -> None:
    stub: Any = SchedulerServiceStub(await world.connect("scheduler", tenant.token))
    for number in ("", "2"):
        request = scheduler_service_pb2.CreateWorkloadRequest(
            parent=tenant.project, workload_id=f"{tenant.word}-work{number}", workload=workload_of(tenant)
        )
        request.workload.admission_checks.add(name=CHECK)
        made = await stub.CreateWorkload(request)
        if not number:
            keep(tenant, "Workload", made)


def workload_of(tenant: Belongings, *, cpu_milli: int = 10, **fields: Any) -> workload_pb2.Workload:
    """A workload as a tenant asks for one: a process with something private in its command."""
    program = program_pb2.ProcessProgram(argv=["work", tenant.secret], environment={"PRIVATE": tenant.secret})
    group = workload_pb2.SliceGroup(
        name="worker",
        min_count=1,
        resources=resources_pb2.Resources(cpu_milli=cpu_milli, memory_bytes=1 << 20),
        program=program_pb2.Program(process=program),
    )
    return workload_pb2.Workload(kind=workload_pb2.Workload.BATCH, groups=[group], **fields)


def likeness(tenant: Belongings, word: str) -> Belongings:
    """A tenant with the same things under another word, whether there is one or not."""

    def renamed(things: dict[str, str]) -> dict[str, str]:
        return {kind: thing.replace(tenant.word, word) for kind, thing in things.items()}

    return replace(tenant, word=word, user=tenant.user.replace(tenant.word, word), names=renamed(tenant.names))
