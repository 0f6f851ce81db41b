"""A job as it is submitted: checked, completed, rendered as the specification that its ranks read; pure."""

import json
import uuid
from dataclasses import fields
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.errors import InvalidArgument
from lepton.internal.v1.run_report_pb2 import RunCode, StartRunResponse
from lepton.names import FloatingResourceName, JobName, PoolName, ProjectName, QueueName
from lepton.trainer.v1.job_pb2 import CodeBundle, Job
from lepton.trainer.v1.trainer_service_pb2 import CreateJobRequest
from services.trainer.worker.spec import TrainingSpec

_FORBIDDEN: Final = ("LD_", "PYTHON")
"""What decides how a program is loaded is not the user's to set."""
_ELSEWHERE: Final = {"dataset": "job.dataset", "checkpoint_every_steps": "job.checkpoint_policy.every_steps"}
"""Fields of a specification that a job does not have in its recipe."""


def new_job(request: CreateJobRequest, trace_context: str, now: Timestamp) -> Job:
    """The job that a request asks for. Raises InvalidArgument naming the field that is wrong."""
    name = JobName(ProjectName.parse(request.parent, "parent").project, request.job_id)
    given = request.job
    if given.workers.max_count and given.workers.max_count < given.workers.count:
        raise InvalidArgument("INVALID_FIELD", fields={"job.workers.max_count": "must be 0 or at least workers.count"})
    _check_wishes(given)
    job = Job(
        name=str(name),
        uid=str(uuid.uuid4()),
        display_name=given.display_name,
        labels=given.labels,
        dataset=given.dataset,
        workers=given.workers,
        pools=given.pools,
        priority=given.priority,
        max_restarts=given.max_restarts,
        checkpoint_policy=given.checkpoint_policy,
        queue=given.queue,
        expected_duration_s=given.expected_duration_s,
        floating_resources=given.floating_resources,
        node_selector=given.node_selector,
        tolerated_taints=given.tolerated_taints,
        disable_preemption=given.disable_preemption,
        state=Job.PENDING,
        trace_context=trace_context,
        create_time=now,
        update_time=now,
    )
    if given.HasField("recipe"):
        job.recipe.CopyFrom(given.recipe)
        training_spec(job)
    else:
        job.bundle.CopyFrom(given.bundle)
        _check_bundle(given.bundle)
    return job


def training_spec(job: Job) -> TrainingSpec:
    """The specification of a recipe's ranks; what the job leaves open has the recipe's default."""
    recipe = job.recipe
    chosen: dict[str, Any] = {
        "recipe": recipe.name,
        "project": JobName.parse(job.name).project,
        "dataset": job.dataset,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "test_fraction": recipe.test_fraction,
        "checkpoint_every_steps": job.checkpoint_policy.every_steps,
    }
    defaults = {field.name for field in fields(TrainingSpec)}
    settings = {key: value for key, value in chosen.items() if value and key in defaults}
    if "dataset" not in settings:
        raise InvalidArgument(
            "INVALID_FIELD", fields={"job.dataset": "a recipe needs the digest of a dataset artifact"}
        )
    try:
        return TrainingSpec(**settings, seed=recipe.seed)
    except InvalidArgument as error:
        placed = {_ELSEWHERE.get(field, f"job.recipe.{field}"): what for field, what in error.fields.items()}
        raise InvalidArgument("INVALID_FIELD", fields=placed) from error


def what_to_run(job: Job, resume_manifest: str) -> StartRunResponse:
    """What the ranks of a job are started with."""
    if job.HasField("recipe"):
        return StartRunResponse(spec_json=training_spec(job).render().decode(), resume_manifest=resume_manifest)
    bundle = job.bundle
    return StartRunResponse(
        spec_json=json.dumps({"project": JobName.parse(job.name).project, "dataset": job.dataset}),
        resume_manifest=resume_manifest,
        code=RunCode(
            digest=bundle.digest, entry_point=bundle.entry_point, argv=bundle.argv, environment=bundle.environment
        ),
    )


def _check_wishes(given: Job) -> None:
    for index, pool in enumerate(given.pools):
        PoolName.parse(pool, f"job.pools[{index}]")
    if given.queue:
        QueueName.parse(given.queue, "job.queue")
    for resource in given.floating_resources:
        FloatingResourceName.parse(resource, f"job.floating_resources[{resource}]")
    if "" in given.node_selector:
        raise InvalidArgument("INVALID_FIELD", fields={"job.node_selector": "must not have an empty key"})


def _check_bundle(bundle: CodeBundle) -> None:
    if ".." in bundle.entry_point.split("/"):
        raise InvalidArgument("INVALID_FIELD", fields={"job.bundle.entry_point": "must not leave the bundle"})
    forbidden = sorted(name for name in bundle.environment if name.startswith(_FORBIDDEN))
    if forbidden:
        raise InvalidArgument("INVALID_FIELD", fields={"job.bundle.environment": f"must not set {forbidden[0]}"})
