"""What a command on the fleet needs, as options."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from lepton.cli.marks import apply_labels
from lepton.cli.plan_terms import number
from lepton.cli.secret_options import HELP, secret_mounts
from lepton.cli.spans import seconds
from lepton.client.pools import pool_name
from lepton.client.queues import queue_name
from lepton.scheduler.v1.workload_pb2 import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """The resources of each process, and where and when it runs."""

    cpu: Annotated[str, typer.Option(help="Cores of each.")] = "1"
    memory: Annotated[str, typer.Option(help="Memory of each: 512Mi, 4Gi.")] = ""
    devices: Annotated[str, typer.Option(help="Accelerators of each; below 1 a share of one.")] = ""
    model: Annotated[list[str] | None, typer.Option(help="An accelerator's model that will do.")] = None
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE that it finds in its environment.")] = None
    secret: Annotated[list[str] | None, typer.Option(help=HELP)] = None
    max_restarts: Annotated[int, typer.Option(min=0, max=1000, help="How often one that fails is run again.")] = 0
    pool: Annotated[list[str] | None, typer.Option(help="A pool it may run in; several by preference.")] = None
    queue: Annotated[str, typer.Option(help="The queue it waits in; default: the project's.")] = ""
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Larger goes first.")] = 0
    expected: Annotated[str, typer.Option(help="How long each is expected to run: 90s, 20m, 6h.")] = ""
    select: Annotated[list[str] | None, typer.Option(help="LABEL=VALUE that its nodes must have.")] = None
    label: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of its own; a residency policy places it by its region.")
    ] = None
    tolerate: Annotated[list[str] | None, typer.Option(help="The key of a taint that it tolerates.")] = None

    def workload(self, argv: Sequence[str]) -> Workload:
        """The workload of one such process."""
        made = Workload(kind=Workload.BATCH, priority=self.priority, max_restarts=self.max_restarts)
        group = made.groups.add(name="task", min_count=1)
        group.program.process.argv.extend(argv)
        for each in self.env or ():
            name, sign, value = each.partition("=")
            if not sign or not name:
                raise typer.BadParameter(f"--env {each} must be NAME=VALUE")
            group.program.process.environment[name] = value
        for mount in secret_mounts(self.secret or ()):
            group.program.process.secrets.add(**mount)
        wanted = group.resources
        wanted.cpu_milli = round(number(self.cpu, "--cpu") * 1000)
        wanted.memory_bytes = round(number(self.memory, "--memory")) if self.memory else 0
        wanted.device_milli = round(number(self.devices, "--devices") * 1000) if self.devices else 0
        wanted.device_models.extend(self.model or ())
        made.pools.extend(pool_name(each) for each in self.pool or ())
        made.queue = queue_name(self.queue) if self.queue else ""
        made.expected_duration_s = seconds(self.expected, "--expected") if self.expected else 0
        apply_labels(made.node_selector, self.select or ())
        apply_labels(made.labels, self.label or ())
        for key in sorted(set(self.tolerate or ())):
            made.tolerations.add(key=key)
        return made
