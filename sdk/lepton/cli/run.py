"""`lepton run`."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lepton.cli.command import command
from lepton.cli.job_options import JobOptions, job_id
from lepton.cli.shell import Shell
from lepton.cli.submission import attend
from lepton.script import Prepared, Script
from lepton.trainer.v1.job_pb2 import Job

app = typer.Typer()
_CODE, _MODULE = "What runs", ("-m", "--module")


class Verbatim(TyperCommand):
    """As with python itself: what follows the script, or the module, is the program's."""

    def __init__(self, **attributes: Any) -> None:
        settings = {**(attributes.pop("context_settings", None) or {}), "allow_interspersed_args": False}
        super().__init__(**attributes, context_settings=settings)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Ends lepton's own options behind the module; behind a script click does so itself."""
        flags = {name for each in self.params if getattr(each, "is_flag", False) for name in self._names(each)}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            name, sign, _ = args[at].partition("=")
            at += 1 if sign or name in flags else 2
            if name in _MODULE or (name.startswith("-m") and not name.startswith("--")):
                at -= name not in _MODULE and not sign  # -mMODULE
                return super().parse_args(ctx, [*args[:at], "--", *args[at:]])
        return super().parse_args(ctx, args)

    @staticmethod
    def _names(option: Any) -> Iterable[str]:
        return (*option.opts, *option.secondary_opts)


@command(app, "run", cls=Verbatim)
async def run(
    shell: Shell,
    program: Annotated[
        list[str] | None, typer.Argument(metavar="SCRIPT [ARGS]...", help="Your script, then what it is given.")
    ] = None,
    module: Annotated[
        str, typer.Option(*_MODULE, help="Run a module, as `python -m` does, instead.", rich_help_panel=_CODE)
    ] = "",
    bundle: Annotated[
        Path | None,
        typer.Option(help="The folder that is sent; default: the script's, or this one for -m.", rich_help_panel=_CODE),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="A file, a folder, or an artifact's digest; lies at $LEPTON_DATA.", rich_help_panel=_CODE),
    ] = "",
    env: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of its environment; NAME alone: as it is here.", rich_help_panel=_CODE),
    ] = None,
    working_directory: Annotated[
        str, typer.Option(help="Where it runs, within the folder; default: its root.", rich_help_panel=_CODE)
    ] = "",
    requirements: Annotated[
        Path | None,
        typer.Option(help="What it needs beside torch, as pip reads it.", rich_help_panel=_CODE),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.", rich_help_panel=_CODE)
    ] = False,
    *,
    options: JobOptions,
) -> int | None:
    """Run your own training script on the fleet: sends its folder, submits a job, and shows how it goes.

    lepton run train.py                                       one rank

    lepton run --workers 4 --data images/ train.py --lr 0.1   what follows the script is its own

    lepton run --workers 8 --memory 4Gi --requirements requirements.txt -m project.train --epochs 3

    lepton run --dry-run train.py                             lists what would be sent

    The script runs as under torchrun: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, so
    init_process_group() needs no arguments. Its folder is its working directory; LEPTON_DATA says where the data lies.
    A .leptonignore file (with git's syntax; else .gitignore) leaves files out. With `from lepton import train` it can
    report metrics, write checkpoints and go on from them: see docs/training.md.

    Ctrl-C ends the watching, not the job: `lepton jobs cancel NAME` does that.
    """
    given = program or []
    script = Script(
        path=Path(given[0]) if given and not module else None,
        module=module,
        folder=bundle,
        argv=tuple(given if module else given[1:]),
        environment=environment(env or (), os.environ),
        working_directory=working_directory,
        requirements=requirements,
        data=data or None,
    )
    prepared = await asyncio.to_thread(script.prepare)
    if dry_run:
        _list(shell, prepared)
        return None
    job = Job()
    options.fill(job)
    what = module.rpartition(".")[2] if module else Path(given[0]).stem
    shell.note(f"sending {prepared.bundle.summary()} of {prepared.bundle.root}")
    async with shell.client() as client:
        submitted = await client.jobs.submit_script(options.name or job_id(what), prepared, job)
        shell.note(f"submitted {submitted.name}, code {submitted.bundle.digest[:19]}")
        return await attend(shell, client, submitted, options)


def environment(pairs: Sequence[str], own: Any) -> dict[str, str]:
    """Variables as they are given: NAME=VALUE, or NAME for the value that it has here."""
    made = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not name or (not sign and name not in own):
            raise typer.BadParameter(f"{pair} in --env: write NAME=VALUE, or the NAME of a variable that is set here")
        made[name] = value if sign else own[name]
    return made


def _list(shell: Shell, prepared: Prepared) -> None:
    if not shell.printer.is_for_people:
        shell.printer.document(
            {
                "entry_point": prepared.code.entry_point,
                "module": prepared.code.module,
                "argv": list(prepared.code.argv),
                "files": [{"name": each.name, "bytes": each.size} for each in prepared.bundle.files],
                "left_out": list(prepared.bundle.left_out),
                "data_files": len(prepared.data.files) if prepared.data else 0,
                "data_bytes": prepared.data.size if prepared.data else 0,
            }
        )
        return
    for line in prepared.bundle.listing():
        shell.printer.text(line)
    shell.printer.text(f"code: {prepared.bundle.summary()}")
    if prepared.data is not None:
        shell.printer.text(f"data: {prepared.data.summary()}")
    what = f"-m {prepared.code.module}" if prepared.code.module else prepared.code.entry_point
    shell.printer.text(f"runs: {' '.join((what, *prepared.code.argv))}")
