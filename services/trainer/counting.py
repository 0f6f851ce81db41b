"""What a job counts for against its creator's limits."""

from chassis.clock import Clock
from chassis.holdings import Holding, Holdings, Policy
from chassis.kv import KV
from lepton.trainer.v1.job_pb2 import Job
from services.trainer.lifecycle import ENDED
from services.trainer.store import JOBS, ROOT


def devices_of(job: Job) -> int:
    """Thousandths of devices that a job asks for when it is as large as it may grow."""
    workers = job.workers
    each = workers.devices if workers.HasField("devices") else 1
    return 1000 * each * max(workers.count, workers.max_count)


def holding_of(stored: bytes) -> Holding | None:
    """What a stored job holds; None once it has ended."""
    job = Job.FromString(stored)
    return None if job.state in ENDED else Holding(holder=job.creator, device_milli=devices_of(job))


def counted_jobs(kv: KV, policy: Policy, clock: Clock) -> Holdings:
    """The jobs that principals hold."""
    return Holdings(kv, policy, clock, prefix=JOBS, guards=f"{ROOT}holders/", kind="jobs", read=holding_of)
