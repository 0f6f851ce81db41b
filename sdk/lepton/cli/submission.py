"""The end of every command that submits a job: followed until it has ended, or left to itself."""

import asyncio

from lepton.cli import exits
from lepton.cli.cells import state
from lepton.cli.columns import JOBS
from lepton.cli.job_options import JobOptions
from lepton.cli.progress import JobProgress
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.trainer.v1.job_pb2 import Job


async def attend(shell: Shell, client: AsyncClient, submitted: Job, options: JobOptions) -> int | None:
    """Show a job that was just submitted as the options wish; the exit code."""
    if not options.wait:
        shell.printer.one(submitted, JOBS)
        return None
    try:
        with JobProgress(shell) as progress:
            ended = await progress.follow(client, submitted.name, logs=options.follow)
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
    if job.error.advice:
        shell.note(f"  try: {job.error.advice}")
    return exits.FAILED
