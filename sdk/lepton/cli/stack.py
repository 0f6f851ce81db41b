"""`lepton up`, `down` and `status`: the one-machine stack, which is a program of the control plane's."""

import importlib.util
import os
import subprocess
import sys

import typer

from lepton.profile import FILE, home

app = typer.Typer(no_args_is_help=True)


@app.command("up")
def up() -> None:
    """Start a whole Lepton on this machine: etcd, the services, three nodes, the gateway and a trace collector.

    Its state lies in LEPTON_HOME. The first administrator is `admin`, with the password in secrets/admin-password.
    """
    _run("up")
    if not (home() / FILE).is_file():
        typer.echo("note: commands run from here will not find it; set LEPTON_HOME to the directory above", err=True)


@app.command("down")
def down() -> None:
    """Stop the stack and every process of it; its state stays."""
    _run("down")


@app.command("status")
def status() -> None:
    """Show the processes of the stack."""
    _run("status")


def _run(verb: str) -> None:
    if importlib.util.find_spec("deploy") is None:
        typer.echo("error: the control plane is not installed here", err=True)
        typer.echo("  try: `make setup` in a checkout of Lepton, or set LEPTON_PROFILE to reach another", err=True)
        raise typer.Exit(1)
    environment = dict(os.environ)
    if (home() / FILE).is_file():
        environment["LEPTON_HOME"] = str(home().resolve())  # the stack that commands from here would talk to
    # In our process group, so that a Ctrl-C reaches it; it cleans up, so wait for it.
    process = subprocess.Popen([sys.executable, "-m", "deploy.local", verb], env=environment)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue
    if code:
        raise typer.Exit(code if code > 0 else 1)
