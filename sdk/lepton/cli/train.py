"""`lepton train`."""

import asyncio
import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from lepton.cli import exits
from lepton.cli.columns import JOBS, state
from lepton.cli.command import command
from lepton.cli.marks import apply_labels
from lepton.cli.progress import JobProgress
from lepton.cli.quotas import held
from lepton.cli.shell import Shell
from lepton.cli.spans import seconds
from lepton.client.pools import pool_name
from lepton.client.queues import queue_name
from lepton.errors import InvalidArgument
from lepton.trainer.v1.job_pb2 import Job, Recipe, Workers

app = typer.Typer()


@command(app, "train")
async def train(
    shell: Shell,
    recipe: Annotated[str, typer.Argument(help="What to train: image_classifier.")],
    data: Annotated[
        str,
        typer.Option(
            help="digits (scikit-learn's), an .npz file, an IDX images file, a .safetensors file with x and y, "
            "or a folder that holds one of these."
        ),
    ] = "digits",
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="How many ranks train.")] = 1,
    max_workers: Annotated[int, typer.Option(min=0, help="The most ranks; 0 = as many as --workers.")] = 0,
    epochs: Annotated[int, typer.Option(min=0, help="Passes over the data; 0 = the recipe's default.")] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="Samples a step over all ranks; 0 = the default.")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Step size; 0 = the default.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
    pool: Annotated[list[str] | None, typer.Option(help="A pool it may run in; give several by preference.")] = None,
    queue: Annotated[str, typer.Option(help="The queue it waits in; default: the project's.")] = "",
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Larger goes first.")] = 0,
    expected: Annotated[str, typer.Option(help="How long it is expected to run: 90s, 20m, 6h.")] = "",
    holds: Annotated[
        list[str] | None, typer.Option("--floating", help="RESOURCE=AMOUNT of a floating resource that it holds.")
    ] = None,
    select: Annotated[list[str] | None, typer.Option(help="LABEL=VALUE that its nodes must have.")] = None,
    tolerate: Annotated[list[str] | None, typer.Option(help="The key of a taint that it tolerates.")] = None,
    preemptible: Annotated[
        bool, typer.Option("--preemptible/--no-preemptible", help="Whether it may be stopped for another.")
    ] = True,
    max_restarts: Annotated[int, typer.Option(min=0, help="How often a failure may restart it.")] = 3,
    name: Annotated[str, typer.Option(help="The job's id; default: made of the recipe and the time.")] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended, showing progress.")] = True,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show what the ranks print.")] = True,
) -> int | None:
    """Train a model: uploads the data, submits a job, and shows how it goes.

    lepton train image_classifier --data digits --workers 4 --name digits

    lepton train image_classifier --data mnist/ --pool fast --pool general --epochs 5 --no-wait

    lepton train image_classifier --workers 2 --max-workers 8 --queue research --priority 10 --expected 20m

    lepton train image_classifier --floating licences=1 --select tier=fast --tolerate lepton.dev/repair

    Ctrl-C ends the watching, not the job: `lepton jobs cancel NAME` does that.
    """
    content = await asyncio.to_thread(dataset, data)
    job = Job(
        recipe=Recipe(name=recipe, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed),
        workers=Workers(count=workers, max_count=max_workers),
        pools=[pool_name(each) for each in pool or ()],
        queue=queue_name(queue) if queue else "",
        priority=priority,
        expected_duration_s=seconds(expected, "--expected") if expected else 0,
        floating_resources=held(holds or ()),
        tolerated_taints=sorted(set(tolerate or ())),
        disable_preemption=not preemptible,
        max_restarts=max_restarts,
    )
    apply_labels(job.node_selector, select or ())
    async with shell.client() as client:
        artifact = await client.artifacts.upload(content)
        job.dataset = artifact.digest
        submitted = await client.jobs.create(name or _job_id(recipe), job)
        shell.note(f"submitted {submitted.name}, data {artifact.digest[:19]} ({artifact.size_bytes} bytes)")
        if not wait:
            shell.printer.one(submitted, JOBS)
            return None
        try:
            with JobProgress(shell) as progress:
                ended = await progress.follow(client, submitted.name, logs=follow)
        except asyncio.CancelledError:
            shell.note(f"the job goes on: lepton jobs watch {submitted.name.rpartition('/')[2]}")
            raise
    shell.printer.one(ended, JOBS)
    return outcome(shell, ended)


def outcome(shell: Shell, job: Job) -> int:
    """The exit code of a job that has ended, after saying what went wrong."""
    if job.state == Job.SUCCEEDED:
        return exits.OK
    shell.note(f"the job ended as {state(job)}: {job.error.message or job.message}")
    for line in job.error.log_tail:
        shell.note(f"  [rank {job.error.rank}] {line}")
    return exits.FAILED


def dataset(source: str) -> bytes:
    """The canonical bytes of the data that a user names."""
    from lepton import data  # numpy is needed only here

    path = Path(source)
    if path.is_dir():
        path = _within(path)
        source = str(path)
    if path.suffix == ".safetensors":
        return data.to_safetensors(data.from_safetensors(path.read_bytes()))
    return data.to_safetensors(data.load(source))


def _within(folder: Path) -> Path:
    for pattern in ("*.safetensors", "*.npz", "train*images*", "*images*"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            problem = f"{folder} holds {len(found)} files {pattern}; name one of them"
            raise InvalidArgument("DATASET_INVALID", problem=problem)
    raise InvalidArgument("DATASET_INVALID", problem=f"{folder} holds no .npz, IDX or .safetensors file")


def _job_id(recipe: str) -> str:
    return f"{recipe.replace('_', '-')[:40]}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
