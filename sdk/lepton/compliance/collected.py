"""What exists in a project, read by its public methods and judged here: what `lepton compliance check` does.

Needs no leave but to read; so anybody can repeat what the services find, and try a policy that is not in force yet.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from lepton.auth.v1.compliance_pb2 import CompliancePolicy
from lepton.compliance.rulebook import Rulebook, Violation, data_name
from lepton.compliance.subject import Subject
from lepton.compliance.subjects import (
    of_checkpoint,
    of_deployment,
    of_existing_version,
    of_job,
    of_optimization,
    of_prediction,
    of_workload,
)
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.job_pb2 import Job

if TYPE_CHECKING:
    from lepton.client import AsyncClient

_ENDED: Final = frozenset({Job.SUCCEEDED, Job.FAILED, Job.CANCELLED})
_OVER: Final = frozenset({Workload.SUCCEEDED, Workload.FAILED, Workload.CANCELLED})
_PREDICTED: Final = frozenset({BatchPrediction.SUCCEEDED, BatchPrediction.FAILED, BatchPrediction.CANCELLED})
_SEARCHED: Final = frozenset({Optimization.SUCCEEDED, Optimization.FAILED, Optimization.CANCELLED})


async def rulebook(client: "AsyncClient", draft: CompliancePolicy | None = None) -> Rulebook:
    """What a project must keep now; or, with a draft, that alone."""
    data = {data_name(each.name): dict(each.labels) async for each in client.compliance.labels()}
    if draft is not None:
        return Rulebook(policies=(draft,), data=data)
    policies = await client.compliance.policies()
    report = await client.compliance.report()
    return Rulebook(policies=policies, exemptions=tuple(report.exemptions), data=data)


async def violations(client: "AsyncClient", book: Rulebook) -> list[Violation]:
    """All that exists in the client's project and does not keep the rules."""
    pools = {pool.name: dict(pool.labels) async for pool in client.pools.list()}
    now = datetime.now(UTC)
    return [each async for subject in subjects(client) for each in book.judge(subject, pools, now)]


async def subjects(client: "AsyncClient") -> AsyncIterator[Subject]:
    """Everything that is judged: jobs, their checkpoints, workloads, versions and what is done with them."""
    async for job in client.jobs.list():
        if job.state not in _ENDED:
            yield of_job(job)
        async for checkpoint in client.jobs.checkpoints(job.name):
            yield of_checkpoint(checkpoint)
    async for workload in client.workloads.list():
        if workload.creator and workload.state not in _OVER:
            yield of_workload(workload)
    models = {model.name: model async for model in client.models.list()}
    versions = {version.name: version async for version in client.models.versions()}
    for version in versions.values():
        for subject in of_existing_version(version, _model_of(version.name, models)):
            yield subject
    async for deployment in client.deployments.list():
        if deployment.state != Deployment.DELETING:
            served = [versions[name] for name in sorted(_served(deployment)) if name in versions]
            yield of_deployment(deployment, [(each, _model_of(each.name, models)) for each in served])

    async for batch in client.batch_predictions.list():
        if batch.state not in _PREDICTED:
            version = versions.get(batch.model_version, ModelVersion(name=batch.model_version))
            yield of_prediction(batch, version, _model_of(version.name, models), batch.input.artifact)
    async for search in client.optimizations.list():
        if search.state not in _SEARCHED:
            version = versions.get(search.model_version, ModelVersion(name=search.model_version))
            yield of_optimization(search, version, _model_of(version.name, models))


def _served(deployment: Deployment) -> set[str]:
    steps = {step.model.model_version for step in deployment.pipeline.steps if step.WhichOneof("kind") == "model"}
    return {deployment.model_version, *steps} - {""}


def _model_of(version: str, models: dict[str, Model]) -> Model:
    name = version.partition("/versions/")[0]
    return models.get(name, Model(name=name))
