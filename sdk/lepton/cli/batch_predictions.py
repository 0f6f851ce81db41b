"""`lepton batch-predictions`."""

from pathlib import Path
from typing import Annotated

import typer

from lepton.cli import exits
from lepton.cli.batch_progress import bad_lines, follow
from lepton.cli.columns import BATCH_PREDICTIONS
from lepton.cli.command import command
from lepton.cli.shell import Shell
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction

app = typer.Typer(
    name="batch-predictions", help="List, follow, stop and download batch predictions.", no_args_is_help=True
)
Name = Annotated[str, typer.Argument(metavar="BATCH_PREDICTION", help="Its id or name.")]


@command(app, "list")
async def list_(shell: Shell) -> int | None:
    """List the project's batch predictions."""
    async with shell.client() as client:
        shell.printer.many(await client.batch_predictions.list().all(), BATCH_PREDICTIONS)
    return None


@command(app, "get")
async def get(shell: Shell, batch_prediction: Name) -> int | None:
    """Show one, with its first bad rows."""
    async with shell.client() as client:
        found = await client.batch_predictions.get(batch_prediction)
    shell.printer.one(found, BATCH_PREDICTIONS)
    if shell.printer.is_for_people:
        for line in bad_lines(found):
            shell.note(line)
    return None


@command(app, "wait")
async def wait(
    shell: Shell,
    batch_prediction: Name,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait; 0 = for ever.")] = 0.0,
) -> int | None:
    """Follow one to its end; exits with 1 unless it succeeded."""
    async with shell.client() as client:
        ended = await follow(shell, client, batch_prediction, timeout)
    shell.printer.one(ended, BATCH_PREDICTIONS)
    return exits.OK if ended.state == BatchPrediction.SUCCEEDED else exits.FAILED


@command(app, "download")
async def download(
    shell: Shell,
    batch_prediction: Name,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .npz or .jsonl, as it was asked for.")],
) -> int | None:
    """Write the result into one file, in the order of the dataset.

    lepton batch-predictions download scores --out scores.npz
    """
    async with shell.client() as client:
        manifest = await client.batch_predictions.download(batch_prediction, out)
    bad, rows = len(manifest["bad_rows"]), sum(shard["rows"] for shard in manifest["shards"])
    whole = "" if manifest["is_complete"] else f" of {manifest['rows']}: it is not complete"
    shell.note(f"wrote {out}: {rows - bad} rows{f' and {bad} bad ones' if bad else ''}{whole}")
    return None


@command(app, "manifest")
async def manifest(shell: Shell, batch_prediction: Name) -> int | None:
    """Show what a result is made of: the shards' files by digest, and every bad row."""
    async with shell.client() as client:
        shell.printer.document(await client.batch_predictions.manifest(batch_prediction))
    return None


@command(app, "cancel")
async def cancel(shell: Shell, batch_prediction: Name) -> int | None:
    """Stop one; what is done can be downloaded."""
    async with shell.client() as client:
        await client.batch_predictions.cancel(batch_prediction)
    shell.note(f"cancelling {batch_prediction}")
    return None


@command(app, "delete")
async def delete(
    shell: Shell,
    batch_prediction: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is gone.")] = False,
) -> int | None:
    """Stop one and delete it. Its files stay as artifacts of the project."""
    async with shell.client() as client:
        await client.batch_predictions.delete(batch_prediction)
        if wait:
            await client.batch_predictions.wait_deleted(batch_prediction, timeout_s=300.0)
    shell.note(f"{'deleted' if wait else 'deleting'} {batch_prediction}")
    return None
