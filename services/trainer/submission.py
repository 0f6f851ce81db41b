"""A job as it is submitted: checked, completed, rendered as the specification that its ranks read; pure."""

import json
import uuid
from collections.abc import Sequence
from typing import Final

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.errors import InvalidArgument
from lepton.internal.v1.run_report_pb2 import RunCode, StartRunResponse
from lepton.names import FloatingResourceName, JobName, PoolName, ProjectName, QueueName
from lepton.train.plan import Plan
from lepton.trainer.v1.job_pb2 import CodeBundle, Job
from lepton.trainer.v1.trainer_service_pb2 import CreateJobRequest
from services.trainer.failure_policy import check_failure_policy
from services.trainer.recipe_spec import training_spec
from services.trainer.workload import DEFAULT_CPU_MILLI

_FORBIDDEN: Final = ("LD_", "PYTHON", "LEPTON_", "TORCHELASTIC_")
"""What decides how a program is loaded, and what the agent itself says, is not the user's to set."""


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
        secrets=given.secrets,
        max_restarts=given.max_restarts,
        checkpoint_policy=given.checkpoint_policy,
        queue=given.queue,
        expected_duration_s=given.expected_duration_s,
        floating_resources=given.floating_resources,
        node_selector=given.node_selector,
        tolerated_taints=given.tolerated_taints,
        disable_preemption=given.disable_preemption,
        parallelism=given.parallelism if given.HasField("parallelism") else None,
        failure_policy=given.failure_policy if given.HasField("failure_policy") else None,
        state=Job.PENDING,
        trace_context=trace_context,
        create_time=now,
        update_time=now,
    )
    _check_parallelism(job)
    if given.HasField("recipe"):
        job.recipe.CopyFrom(given.recipe)
        training_spec(job)
    else:
        job.bundle.CopyFrom(given.bundle)
        _check_bundle(given.bundle)
    return job


def what_to_run(job: Job, resume_manifest: str, older_manifests: Sequence[str] = ()) -> StartRunResponse:
    """What the ranks of a job are started with; `older_manifests` are for when the one to go on from cannot be read."""
    policy = job.failure_policy
    answer = StartRunResponse(
        resume_manifest=resume_manifest,
        older_manifests=older_manifests,
        parallelism_json=MessageToJson(job.parallelism, indent=None) if job.HasField("parallelism") else "",
        hang_timeout_s=policy.hang_timeout.ToTimedelta().total_seconds(),
        preflight=not policy.skip_preflight,
        memory_bytes=job.workers.memory_bytes,  # unasked, none: a device driver alone may need more than the default
        cpu_milli=job.workers.cpu_milli or DEFAULT_CPU_MILLI,
    )
    if job.HasField("recipe"):
        answer.spec_json = training_spec(job).render().decode()
        return answer
    bundle = job.bundle
    answer.spec_json = json.dumps({"project": JobName.parse(job.name).project, "dataset": job.dataset})
    answer.code.CopyFrom(
        RunCode(
            digest=bundle.digest,
            entry_point=bundle.entry_point,
            module=bundle.module,
            argv=bundle.argv,
            environment=bundle.environment,
            working_directory=bundle.working_directory,
            requirements=bundle.requirements,
            data=job.dataset,
        )
    )
    return answer


def _check_wishes(given: Job) -> None:
    check_failure_policy(given.failure_policy)
    for index, pool in enumerate(given.pools):
        PoolName.parse(pool, f"job.pools[{index}]")
    if given.queue:
        QueueName.parse(given.queue, "job.queue")
    for resource in given.floating_resources:
        FloatingResourceName.parse(resource, f"job.floating_resources[{resource}]")
    if "" in given.node_selector:
        raise InvalidArgument("INVALID_FIELD", fields={"job.node_selector": "must not have an empty key"})


def _check_parallelism(job: Job) -> None:
    """InvalidArgument when the job's ranks, or those that it may grow to, do not divide as it asks."""
    if not job.HasField("parallelism"):
        return
    try:
        plan = Plan.parse(MessageToJson(job.parallelism))
        plan.data_size(job.workers.count)
    except InvalidArgument as error:
        placed = {f"job.{field}": problem for field, problem in error.fields.items()}
        raise InvalidArgument("INVALID_FIELD", fields=placed) from error
    if plan.tensor * plan.pipeline > 1 and job.workers.max_count > job.workers.count:
        problem = "must be `count` where layers or stages are divided: it grows by single ranks"
        raise InvalidArgument("INVALID_FIELD", fields={"job.workers.max_count": problem})


def _check_bundle(bundle: CodeBundle) -> None:
    if bool(bundle.entry_point) == bool(bundle.module):
        problem = "exactly one of entry_point and module must be set"
        raise InvalidArgument("INVALID_FIELD", fields={"job.bundle.entry_point": problem})
    for field in ("entry_point", "working_directory", "requirements"):
        if ".." in getattr(bundle, field).split("/"):
            raise InvalidArgument("INVALID_FIELD", fields={f"job.bundle.{field}": "must not leave the bundle"})
    forbidden = sorted(name for name in bundle.environment if name.startswith(_FORBIDDEN))
    if forbidden:
        raise InvalidArgument("INVALID_FIELD", fields={"job.bundle.environment": f"must not set {forbidden[0]}"})
    unusable = [name for name, value in bundle.environment.items() if "\0" in value]
    if unusable or any("\0" in argument for argument in bundle.argv):
        field = f"environment[{unusable[0]}]" if unusable else "argv"
        raise InvalidArgument("INVALID_FIELD", fields={f"job.bundle.{field}": "must not hold a NUL character"})
