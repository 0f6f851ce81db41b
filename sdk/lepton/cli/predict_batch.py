"""`lepton predict-batch`."""

import asyncio
import secrets
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from lepton.cli import exits
from lepton.cli.batch_progress import follow
from lepton.cli.columns import BATCH_PREDICTIONS
from lepton.cli.command import command
from lepton.cli.deploy import parse_model
from lepton.cli.shell import Shell
from lepton.client import AsyncClient
from lepton.errors import InvalidArgument, NotFound
from lepton.inference.v1.batch_prediction_pb2 import BatchPrediction

app = typer.Typer()
_AS_IT_IS: Final = (".npz", ".safetensors", ".jsonl", ".ndjson", ".csv")


class ResultForm(StrEnum):
    """The form of the result."""

    NPZ = "npz"
    JSONL = "jsonl"


@command(app, "predict-batch")
async def predict_batch(
    shell: Shell,
    model: Annotated[str, typer.Argument(metavar="MODEL[@VERSION|:ALIAS]", help="What predicts.")],
    data: Annotated[
        str,
        typer.Option(help=".npz, .safetensors, .jsonl or .csv; a folder of IDX files or pictures; `digits`; a digest."),
    ],
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, max=4096, help="The most that run at once.")] = 1,
    name: Annotated[str, typer.Option(help="Its id; default: the model's, and a few letters.")] = "",
    columns: Annotated[
        str, typer.Option(help="Columns of a .csv file in the model's order, with commas; default: all but the label.")
    ] = "",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Empty cells and NaN are values that the model takes.")
    ] = False,
    form: Annotated[ResultForm, typer.Option("--format", help="The form of the result.")] = ResultForm.NPZ,
    max_bad_rows: Annotated[int, typer.Option(min=0, help="It fails as soon as more rows than this are bad.")] = 0,
    shard_rows: Annotated[int, typer.Option(min=0, help="Rows that a worker takes at once; 0 = a fair size.")] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="Rows that go through the model together; 0 = 64.")] = 0,
    pool: Annotated[list[str] | None, typer.Option(help="A pool it may run in; give several by preference.")] = None,
    queue: Annotated[str, typer.Option(help="The queue it waits in; default: the project's.")] = "",
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Larger goes first.")] = 0,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = False,
    out: Annotated[Path | None, typer.Option(help="Then write the result into this file.")] = None,
    timeout: Annotated[float, typer.Option(min=0.0, help="Seconds to wait; 0 = for ever.")] = 0.0,
) -> int | None:
    """Apply a model to every row of a dataset, by an elastic number of workers.

    lepton predict-batch digits --data digits --workers 4 --out scores.npz

    lepton predict-batch risk:champion --data loans.csv --columns amount,term,age --max-bad-rows 10 --wait -o json

    Rows are divided into shards, which workers take one by one; a worker that dies costs time and no row. The result
    has the dataset's order: `row` is a row's index in it. A bad row costs no other: it is told with index and reason.
    """
    model_id, version = parse_model(model)
    async with shell.client() as client:
        found = await client.models.get_version(model_id, version)
        dataset = data if data.startswith("sha256:") else await _upload(shell, client, data)
        created = await client.batch_predictions.create(
            name or f"{found.name.split('/')[3][:50].rstrip('-')}-{secrets.token_hex(3)}",
            found.name,
            dataset,
            workers=workers,
            columns=_named(columns),
            allow_missing=allow_missing,
            output_format=BatchPrediction.JSONL if form is ResultForm.JSONL else BatchPrediction.NPZ,
            shard_rows=shard_rows,
            batch_size=batch_size,
            max_bad_rows=max_bad_rows,
            pools=pool or (),
            queue=queue,
            priority=priority,
        )
        if not wait and out is None:
            shell.printer.one(created, BATCH_PREDICTIONS)
            return None
        ended = await follow(shell, client, created.name, timeout)
        if out is not None and ended.manifest:
            await client.batch_predictions.download(ended.name, out)
            shell.note(f"wrote {out}")
    shell.printer.one(ended, BATCH_PREDICTIONS)
    return exits.OK if ended.state == BatchPrediction.SUCCEEDED else exits.FAILED


async def _upload(shell: Shell, client: AsyncClient, source: str) -> str:
    """Stores what a user names, as it is or as one canonical file; its digest."""
    content = await asyncio.to_thread(_content, source)
    artifact = await client.artifacts.upload(content)
    shell.note(f"uploaded {source}: {artifact.digest[:19]}, {artifact.size_bytes:,} bytes")
    return str(artifact.digest)


def _content(source: str) -> bytes | Path:
    path = Path(source)
    if path.is_dir():
        tables = sorted(each for each in path.iterdir() if each.suffix in _AS_IT_IS)
        if len(tables) == 1:
            return tables[0]
        if tables:
            problem = f"holds {len(tables)} files of data; name one of them"
            raise InvalidArgument("INPUT_INVALID", file=source, problem=problem)
    elif path.suffix in _AS_IT_IS:
        if not path.is_file():
            raise NotFound("FILE_NOT_FOUND", file=source)
        return path
    from lepton import data  # scikit-learn and pillow are needed only for their kinds

    return data.to_safetensors(data.load(source))


def _named(columns: str) -> Sequence[str]:
    return [name.strip() for name in columns.split(",") if name.strip()]
