"""The options of a job, whatever it runs: its workers, its place in the fleet, and how it is watched."""

import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from lepton.cli.marks import apply_labels
from lepton.cli.plan_terms import number
from lepton.cli.quotas import held
from lepton.cli.restart_rules import restart_rules
from lepton.cli.secret_options import HELP, secret_mounts
from lepton.cli.spans import seconds
from lepton.client.pools import pool_name
from lepton.client.queues import queue_name
from lepton.trainer.v1.job_pb2 import FailurePolicy, Job, Parallelism

_WORKERS, _STRATEGY, _PLACE, _WATCHING = "Workers", "How they divide the work", "Its place in the fleet", "Watching it"


class Strategy(StrEnum):
    """What workers keep of the model."""

    DDP = "ddp"
    FSDP = "fsdp"
    PARAMETER_SERVER = "parameter-server"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What `lepton train` and `lepton run` have in common."""

    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="How many ranks train.", rich_help_panel=_WORKERS)
    ] = 1
    max_workers: Annotated[
        int, typer.Option(min=0, help="The most ranks; 0 = as many as --workers.", rich_help_panel=_WORKERS)
    ] = 0
    devices: Annotated[
        int | None, typer.Option(min=0, max=64, help="Accelerators of each; default 1.", rich_help_panel=_WORKERS)
    ] = None
    cpu: Annotated[str, typer.Option(help="Cores of each: 4, 0.5; default 0.5.", rich_help_panel=_WORKERS)] = ""
    memory: Annotated[str, typer.Option(help="Memory of each: 512Mi, 2Gi; default 1Gi.", rich_help_panel=_WORKERS)] = ""
    max_restarts: Annotated[
        int, typer.Option(min=0, help="How often a failure may restart it.", rich_help_panel=_WORKERS)
    ] = 3
    restarts_of: Annotated[
        list[str] | None,
        typer.Option(
            "--restarts", help="CLASS=NUMBER of restarts for one class: oom-device=0.", rich_help_panel=_WORKERS
        ),
    ] = None
    hang_timeout: Annotated[
        str, typer.Option(help="A rank without a step for so long is ended: 90s, 20m.", rich_help_panel=_WORKERS)
    ] = ""
    preflight: Annotated[
        bool,
        typer.Option(
            "--preflight/--no-preflight", help="Check that ranks reach each other first.", rich_help_panel=_WORKERS
        ),
    ] = True
    strategy: Annotated[Strategy, typer.Option(help="What ranks keep of the model.", rich_help_panel=_STRATEGY)] = (
        Strategy.DDP
    )
    tensor: Annotated[
        int, typer.Option(min=1, max=1024, help="Ranks that each layer is cut over.", rich_help_panel=_STRATEGY)
    ] = 1
    pipeline: Annotated[
        int, typer.Option(min=1, max=1024, help="Stages that the layers are divided into.", rich_help_panel=_STRATEGY)
    ] = 1
    microbatches: Annotated[
        int, typer.Option(min=0, help="Parts of a batch in the pipeline; 0 = as stages.", rich_help_panel=_STRATEGY)
    ] = 0
    servers: Annotated[
        int, typer.Option(min=1, help="Of parameter-server: ranks that are servers.", rich_help_panel=_STRATEGY)
    ] = 1
    max_staleness: Annotated[
        int, typer.Option(min=0, help="Of parameter-server: steps apart at most; 0 = 8.", rich_help_panel=_STRATEGY)
    ] = 0
    pool: Annotated[
        list[str] | None,
        typer.Option(help="A pool it may run in; give several by preference.", rich_help_panel=_PLACE),
    ] = None
    queue: Annotated[
        str, typer.Option(help="The queue it waits in; default: the project's.", rich_help_panel=_PLACE)
    ] = ""
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Larger goes first.", rich_help_panel=_PLACE)] = 0
    expected: Annotated[
        str, typer.Option(help="How long it is expected to run: 90s, 20m, 6h.", rich_help_panel=_PLACE)
    ] = ""
    holds: Annotated[
        list[str] | None,
        typer.Option(
            "--floating", help="RESOURCE=AMOUNT of a floating resource that it holds.", rich_help_panel=_PLACE
        ),
    ] = None
    select: Annotated[
        list[str] | None, typer.Option(help="LABEL=VALUE that its nodes must have.", rich_help_panel=_PLACE)
    ] = None
    tolerate: Annotated[
        list[str] | None, typer.Option(help="The key of a taint that it tolerates.", rich_help_panel=_PLACE)
    ] = None
    preemptible: Annotated[
        bool,
        typer.Option(
            "--preemptible/--no-preemptible", help="Whether it may be stopped for another.", rich_help_panel=_PLACE
        ),
    ] = True
    secret: Annotated[list[str] | None, typer.Option(help=HELP, rich_help_panel=_WORKERS)] = None
    name: Annotated[
        str, typer.Option(help="The job's id; default: made of what runs and the time.", rich_help_panel=_WATCHING)
    ] = ""
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until it has ended, with progress.", rich_help_panel=_WATCHING),
    ] = True
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show what the ranks print.", rich_help_panel=_WATCHING)
    ] = True

    def fill(self, job: Job) -> None:
        """Writes them into a job."""
        workers = job.workers
        workers.count, workers.max_count = self.workers, self.max_workers
        if self.devices is not None:
            workers.devices = self.devices
        if self.cpu:
            workers.cpu_milli = round(number(self.cpu, "--cpu") * 1000)
        if self.memory:
            workers.memory_bytes = round(number(self.memory, "--memory"))
        if (parallelism := self.parallelism) != Parallelism():
            job.parallelism.CopyFrom(parallelism)
        for mount in secret_mounts(self.secret or ()):
            job.secrets.add(**mount)
        job.pools.extend(pool_name(each) for each in self.pool or ())
        job.queue = queue_name(self.queue) if self.queue else ""
        job.priority = self.priority
        job.expected_duration_s = seconds(self.expected, "--expected") if self.expected else 0
        for resource, amount in held(self.holds or ()).items():
            job.floating_resources[resource] = amount
        apply_labels(job.node_selector, self.select or ())
        job.tolerated_taints.extend(sorted(set(self.tolerate or ())))
        job.disable_preemption = not self.preemptible
        job.max_restarts = self.max_restarts
        policy = FailurePolicy(rules=restart_rules(self.restarts_of or ()), skip_preflight=not self.preflight)
        if self.hang_timeout:
            policy.hang_timeout.FromSeconds(seconds(self.hang_timeout, "--hang-timeout"))
        if policy != FailurePolicy():
            job.failure_policy.CopyFrom(policy)

    @property
    def parallelism(self) -> Parallelism:
        """How the ranks divide the work; what is as by default is not set."""
        made = Parallelism(microbatches=self.microbatches)
        if self.strategy is Strategy.FSDP:
            made.data = Parallelism.FSDP
        elif self.strategy is Strategy.PARAMETER_SERVER:
            made.data, made.servers, made.max_staleness = (
                Parallelism.PARAMETER_SERVER,
                self.servers,
                self.max_staleness,
            )
        if self.tensor > 1:
            made.tensor = self.tensor
        if self.pipeline > 1:
            made.pipeline = self.pipeline
        return made


def job_id(what: str) -> str:
    """An id for a job that runs this, now."""
    words = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in what.lower()).strip("-")
    stem = words[:40].strip("-")
    started = stem if stem[:1].isalpha() else f"job-{stem}".rstrip("-")
    return f"{started}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
