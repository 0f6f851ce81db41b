"""Jobs, versions, deployments, optimisations, workloads and checkpoints as subjects; pure."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC
from typing import Final

from lepton.compliance.subject import Act, ModelFacts, Subject
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.inference.v1.optimization_pb2 import Optimization
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job

_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")


def of_job(job: Job, principal: str = "") -> Subject:
    """A job that is submitted by a principal, or exists."""
    used = (job.dataset, job.bundle.digest, job.recipe.initial_model)
    return Subject(
        act=Act.JOB,
        resource=job.name,
        principal=principal,
        etag=job.etag,
        data=(job.dataset,) if job.dataset else (),
        ancestry=tuple(digest for digest in used[1:] if digest),
        pools=tuple(job.pools),
        digests=tuple(digest for digest in used if digest),
    )


def facts_of(version: ModelVersion, model: Model) -> ModelFacts:
    """What rules look at of a model version."""
    lineage = version.lineage
    digests = (lineage.initial_model, lineage.checkpoint, *lineage.ancestry, version.package)
    return ModelFacts(
        name=version.name,
        labels=dict(model.labels),
        tags=dict(model.tags) | dict(version.tags),
        metrics=dict(version.metrics),
        stage=ModelVersion.Stage.Name(version.stage or ModelVersion.NONE),
        creator=version.creator,
        data=tuple(dict.fromkeys(digest for digest in (lineage.dataset, *lineage.datasets) if digest)),
        ancestry=tuple(dict.fromkeys(digest for digest in digests if digest.startswith("sha256:"))),
    )


def of_version(version: ModelVersion, model: Model, principal: str = "") -> Subject:
    """A version that is registered by a principal, or exists."""
    return _version(Act.REGISTER, version, model, principal, "")


def of_promotion(version: ModelVersion, model: Model, to_stage: str, principal: str = "") -> Subject:
    """A version that a principal promotes, or that is in a stage."""
    return _version(Act.PROMOTE, version, model, principal, to_stage)


def of_existing_version(version: ModelVersion, model: Model) -> Sequence[Subject]:
    """A version as it is looked at again: as registered, and as having come to its stage."""
    stage = ModelVersion.Stage.Name(version.stage or ModelVersion.NONE)
    return (of_version(version, model), of_promotion(version, model, stage))


def of_deployment(deployment: Deployment, models: Iterable[tuple[ModelVersion, Model]], principal: str = "") -> Subject:
    """A deployment that a principal makes or changes, or that exists, with the versions that it serves."""
    served = tuple(models)
    return Subject(
        act=Act.DEPLOY,
        resource=deployment.name,
        principal=principal,
        etag=deployment.etag,
        models=tuple(facts_of(version, model) for version, model in served),
        pools=tuple(deployment.pools),
        has_gate=deployment.strategy.HasField("gate"),
        digests=tuple(version.package for version, _ in served if version.package),
    )


def of_prediction(
    batch: BatchPrediction, version: ModelVersion, model: Model, dataset: str, principal: str = ""
) -> Subject:
    """A batch prediction on a dataset."""
    return Subject(
        act=Act.PREDICT,
        resource=batch.name,
        principal=principal,
        etag=batch.etag,
        data=(dataset,) if dataset else (),
        models=(facts_of(version, model),),
        pools=tuple(batch.pools),
        digests=tuple(digest for digest in (dataset, version.package) if digest),
    )


def of_optimization(optimization: Optimization, version: ModelVersion, model: Model, principal: str = "") -> Subject:
    """An optimisation of a version that a principal asks for, or that exists."""
    used = (optimization.dataset, version.package)
    return Subject(
        act=Act.CONVERT,
        resource=optimization.name,
        principal=principal,
        etag=optimization.etag,
        data=(optimization.dataset,) if optimization.dataset else (),
        models=(facts_of(version, model),),
        pools=tuple(optimization.pools),
        digests=tuple(digest for digest in used if digest),
    )


def of_conversion(
    resource: str, models: Iterable[tuple[ModelVersion, Model]], pools: Iterable[str], dataset: str = ""
) -> Subject:
    """What a service does with versions on behalf of a resource, so that they can be served or applied to a dataset."""
    used = tuple(models)
    return Subject(
        act=Act.CONVERT,
        resource=resource,
        data=(dataset,) if dataset else (),
        models=tuple(facts_of(version, model) for version, model in used),
        pools=tuple(pools),
        digests=tuple(version.package for version, _ in used if version.package),
    )


def of_workload(workload: Workload, principal: str = "") -> Subject:
    """A workload that no service made: placed by its own labels, and by those of what its programs name by digest."""
    programs = (group.program.SerializeToString().decode(errors="replace") for group in workload.groups)
    named = tuple(dict.fromkeys(digest for program in programs for digest in _DIGEST.findall(program)))
    return Subject(
        act=Act.RUN,
        resource=workload.name,
        principal=principal,
        etag=workload.etag,
        ancestry=named,
        labels=dict(workload.labels),
        pools=tuple(workload.pools),
        digests=named[:8],
    )


def of_checkpoint(checkpoint: Checkpoint, act: Act = Act.KEEP_CHECKPOINT, principal: str = "") -> Subject:
    """A checkpoint that is kept, or is to be deleted."""
    return Subject(
        act=act,
        resource=checkpoint.name,
        principal=principal,
        created=checkpoint.create_time.ToDatetime(tzinfo=UTC),
        digests=(checkpoint.manifest,) if checkpoint.manifest else (),
    )


def _version(act: Act, version: ModelVersion, model: Model, principal: str, to_stage: str) -> Subject:
    return Subject(
        act=act,
        resource=version.name,
        principal=principal,
        etag=version.etag,
        models=(facts_of(version, model),),
        to_stage=to_stage,
        digests=(version.package,) if version.package else (),
    )
