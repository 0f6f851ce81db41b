"""`lepton queues`."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from lepton.cli.columns import QUEUES
from lepton.cli.command import command
from lepton.cli.quotas import FORM, apply_quotas
from lepton.cli.shell import Shell
from lepton.client.queues import queue_name
from lepton.scheduler.v1.queue_pb2 import Queue

app = typer.Typer(name="queues", help="Divide the fleet between teams: the tree of queues.", no_args_is_help=True)


class Policy(StrEnum):
    """In what order a queue's workloads are looked at."""

    FAIR_SHARE = "fair-share"
    FIFO = "fifo"
    SHORTEST_JOB_FIRST = "shortest-job-first"
    WEIGHTED_DYNAMIC = "weighted-dynamic"


class Gate(StrEnum):
    """Whether a queue is open."""

    OPEN = "open"
    HOLD = "hold"
    DRAIN = "drain"


_GATES = {
    Gate.OPEN: Queue.STOP_POLICY_UNSPECIFIED,
    Gate.HOLD: Queue.HOLD,
    Gate.DRAIN: Queue.HOLD_AND_DRAIN,
}
QueueArgument = Annotated[str, typer.Argument(help="The queue's id.")]
ParentOption = Annotated[str | None, typer.Option(help="The queue above it; '' makes it a root.")]
WeightOption = Annotated[float | None, typer.Option(help="Its weight among its siblings.")]
QuotaOption = Annotated[list[str] | None, typer.Option("--quota", help=f"What it may use: {FORM}.")]
PolicyOption = Annotated[Policy | None, typer.Option(help="The order of its workloads.")]
StrictOption = Annotated[bool | None, typer.Option("--strict/--best-effort", help="Whether nothing passes the first.")]
ProjectOption = Annotated[
    list[str] | None, typer.Option("--member", help="A project whose workloads come here; PROJECT- takes it out.")
]
LimitOption = Annotated[
    list[str] | None, typer.Option("--project-limit", help="The most for each single project: [POOL/]RESOURCE=AMOUNT.")
]
HalfLifeOption = Annotated[int | None, typer.Option(help="Seconds after which use counts half.")]
RuntimeOption = Annotated[int | None, typer.Option(help="Seconds before a workload may be stopped for another.")]
AgingOption = Annotated[int | None, typer.Option(help="Seconds of waiting that are worth one step of priority.")]
PreemptionOption = Annotated[
    bool | None, typer.Option("--preemption/--no-preemption", help="Whether the urgent may stop the less urgent.")
]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List queues, with what waits in them and what they use."""
    async with shell.client() as client:
        shell.printer.many(await client.queues.list().all(), QUEUES)
    return None


@command(app, "get")
async def get(shell: Shell, queue: QueueArgument) -> int | None:
    """Show a queue; `-o wide` shows its quotas and projects too."""
    async with shell.client() as client:
        shell.printer.one(await client.queues.get(queue), QUEUES)
    return None


@command(app, "watch")
async def watch(shell: Shell) -> int | None:
    """Show the queues as they are, and then every change of what is set on them, for ever."""
    async with shell.client() as client:
        async for change in client.queues.watch_all():
            if change.is_deleted:
                shell.note(f"deleted {change.resource.name.rpartition('/')[2]}")
            else:
                shell.printer.change(change.resource, QUEUES)
    return None


@command(app, "create")
async def create(
    shell: Shell,
    queue_id: QueueArgument,
    parent: ParentOption = None,
    weight: WeightOption = None,
    quotas: QuotaOption = None,
    policy: PolicyOption = None,
    is_strict: StrictOption = None,
    members: ProjectOption = None,
    project_limits: LimitOption = None,
    half_life: HalfLifeOption = None,
    min_runtime: RuntimeOption = None,
    aging: AgingOption = None,
    has_preemption: PreemptionOption = None,
) -> int | None:
    """Create a queue.

    lepton queues create vision --parent research --quota fast/devices=16:8 --member acme --weight 2
    """
    queue = Queue()
    _amounts(queue, weight, half_life, min_runtime, aging)
    _place(queue, parent, members)
    _bounds(queue, quotas, project_limits)
    _rules(queue, policy, is_strict, has_preemption, None)
    async with shell.client() as client:
        shell.printer.one(await client.queues.create(queue_id, queue), QUEUES)
    return None


@command(app, "update")
async def update(
    shell: Shell,
    queue: QueueArgument,
    parent: ParentOption = None,
    weight: WeightOption = None,
    quotas: QuotaOption = None,
    policy: PolicyOption = None,
    is_strict: StrictOption = None,
    members: ProjectOption = None,
    project_limits: LimitOption = None,
    half_life: HalfLifeOption = None,
    min_runtime: RuntimeOption = None,
    aging: AgingOption = None,
    has_preemption: PreemptionOption = None,
    gate: Annotated[Gate | None, typer.Option(help="hold admits nothing new; drain stops what runs, too.")] = None,
) -> int | None:
    """Change a queue; what is not given stays. Quotas and members are changed one by one.

    lepton queues update vision --quota devices=24 --quota memory- --member other --gate hold
    """
    async with shell.client() as client:
        current = await client.queues.get(queue)
        fields = [
            *_amounts(current, weight, half_life, min_runtime, aging),
            *_place(current, parent, members),
            *_bounds(current, quotas, project_limits),
            *_rules(current, policy, is_strict, has_preemption, gate),
        ]
        if not fields:
            raise typer.BadParameter("nothing is to be changed; `lepton queues update --help` shows what can be")
        shell.printer.one(await client.queues.update(current, fields), QUEUES)
    return None


@command(app, "delete")
async def delete(shell: Shell, queue: QueueArgument) -> int | None:
    """Delete a queue that has no queues below it and no workloads."""
    async with shell.client() as client:
        await client.queues.delete(queue)
    shell.note(f"deleted {queue}")
    return None


def _amounts(
    queue: Queue, weight: float | None, half_life: int | None, min_runtime: int | None, aging: int | None
) -> list[str]:
    given: dict[str, Any] = {
        "weight": weight,
        "usage_half_life_s": half_life,
        "min_runtime_s": min_runtime,
        "aging_s": aging,
    }
    fields = [name for name, value in given.items() if value is not None]
    for name in fields:
        setattr(queue, name, given[name])
    return fields


def _place(queue: Queue, parent: str | None, members: Sequence[str] | None) -> list[str]:
    """Where it is in the tree, and whose workloads come to it."""
    if parent is not None:
        queue.parent = queue_name(parent) if parent else ""
    projects = set(queue.projects)
    for each in members or ():
        project = f"projects/{each.removeprefix('projects/').removesuffix('-')}"
        if each.endswith("-"):
            projects.discard(project)
        else:
            projects.add(project)
    queue.projects[:] = sorted(projects)
    return [name for name, value in (("parent", parent), ("projects", members)) if value is not None]


def _bounds(queue: Queue, quotas: Sequence[str] | None, limits: Sequence[str] | None) -> list[str]:
    if quotas is not None:
        apply_quotas(queue.quotas, quotas, "--quota")
    if limits is not None:
        apply_quotas(queue.project_limits, limits, "--project-limit")
    return [name for name, value in (("quotas", quotas), ("project_limits", limits)) if value is not None]


def _rules(
    queue: Queue, policy: Policy | None, is_strict: bool | None, has_preemption: bool | None, gate: Gate | None
) -> list[str]:
    fields = list[str]()
    if policy is not None:
        queue.policy = Queue.Policy.Value(policy.name)
        fields.append("policy")
    if is_strict is not None:
        queue.strictness = Queue.STRICT if is_strict else Queue.BEST_EFFORT
        fields.append("strictness")
    if has_preemption is not None:
        queue.disable_preemption = not has_preemption
        fields.append("disable_preemption")
    if gate is not None:
        queue.stop_policy = _GATES[gate]
        fields.append("stop_policy")
    return fields
