"""What a job asks of the scheduler: one gang of torch ranks; pure."""

from typing import Final

from lepton.names import JobName, WorkloadName
from lepton.scheduler.v1.program_pb2 import Program, SecretMount, TorchProgram
from lepton.scheduler.v1.resources_pb2 import Resources
from lepton.scheduler.v1.scheduler_service_pb2 import CreateWorkloadRequest
from lepton.scheduler.v1.workload_pb2 import SliceGroup, Toleration, Workload
from lepton.trainer.v1.job_pb2 import Job
from lepton.trainer.v1.job_pb2 import SecretMount as JobMount
from services.trainer.failure_policy import restart_policy

RANK_MODULE: Final = "services.trainer.worker"
DEFAULT_CPU_MILLI: Final = 500
DEFAULT_MEMORY_BYTES: Final = 1 << 30


def workload_name(job: Job) -> WorkloadName:
    """The workload of a job: the job's id and enough of its uid that a job of the same name gets another."""
    name = JobName.parse(job.name)
    return WorkloadName(project=name.project, workload=f"{name.job[:50].rstrip('-')}-{job.uid[:8]}")


def workload_request(job: Job) -> CreateWorkloadRequest:
    """Asks for the job's workload; a repeat asks for the same one."""
    name = workload_name(job)
    workload = Workload(
        owner=job.name,
        kind=Workload.TRAINING,
        priority=job.priority,
        pools=job.pools,
        groups=[_ranks(job)],
        max_restarts=job.max_restarts,
        restart_policy=restart_policy(job),
        trace_context=job.trace_context,
        queue=job.queue,
        expected_duration_s=job.expected_duration_s,
        floating_resources=job.floating_resources,
        node_selector=job.node_selector,
        tolerations=[Toleration(key=key) for key in job.tolerated_taints],
        disable_preemption=job.disable_preemption,
    )
    return CreateWorkloadRequest(
        parent=str(name.parent), workload_id=name.workload, workload=workload, request_id=job.uid
    )


def _mount(mount: JobMount) -> SecretMount:
    return SecretMount(
        secret=mount.secret,
        version=mount.version,
        **({"env": mount.env} if mount.HasField("env") else {"file": mount.file}),
    )


def _ranks(job: Job) -> SliceGroup:
    workers = job.workers
    devices = workers.devices if workers.HasField("devices") else 1
    return SliceGroup(
        name="worker",
        min_count=workers.count,
        max_count=workers.max_count or workers.count,
        resources=Resources(
            cpu_milli=workers.cpu_milli or DEFAULT_CPU_MILLI,
            memory_bytes=workers.memory_bytes or DEFAULT_MEMORY_BYTES,
            device_milli=1000 * devices,
        ),
        program=Program(torch=TorchProgram(module=RANK_MODULE, job=job.name, secrets=map(_mount, job.secrets))),
    )
