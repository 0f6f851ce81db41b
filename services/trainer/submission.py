"""A job as it is submitted: checked, completed, rendered as the specification that its ranks read; pure."""

import uuid
from dataclasses import fields
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.errors import InvalidArgument
from lepton.names import JobName
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.trainer_service_pb2 import CreateJobRequest
from services.trainer.worker.spec import TrainingSpec


def new_job(request: CreateJobRequest, trace_context: str, now: Timestamp) -> Job:
    """The job that a request asks for. Raises InvalidArgument naming the field that is wrong."""
    name = JobName(project=_project(request.parent), job=request.job_id)
    given = request.job
    if given.workers.max_count and given.workers.max_count < given.workers.count:
        raise InvalidArgument("INVALID_FIELD", fields={"job.workers.max_count": "must be 0 or at least workers.count"})
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
        if ".." in given.bundle.entry_point.split("/"):
            raise InvalidArgument("INVALID_FIELD", fields={"job.bundle.entry_point": "must not leave the bundle"})
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
        placed = {f"job.recipe.{field}": what for field, what in error.fields.items()}
        raise InvalidArgument("INVALID_FIELD", fields=placed) from error


def _project(parent: str) -> str:
    collection, _, project = parent.partition("/")
    if collection != "projects" or not project or "/" in project:
        raise InvalidArgument("INVALID_NAME", fields={"parent": "must have the form projects/{project}"})
    return project
