"""The root of the command line: which commands there are, loaded when they are given."""

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

import lepton
from lepton.cli import exits

_STACK, _ACCESS, _FLEET, _TRAINING, _SERVING, _OBSERVE = (
    "This machine",
    "Who you are",
    "The fleet",
    "Training",
    "Serving",
    "Looking closer",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: which module has it, and what the help says of it."""

    panel: str
    module: str
    help: str


COMMANDS: Final = {
    "up": Entry(_STACK, "stack", "Start a whole Lepton on this machine."),
    "down": Entry(_STACK, "stack", "Stop it."),
    "status": Entry(_STACK, "stack", "Show its processes."),
    "login": Entry(_ACCESS, "login", "Sign in with a password, an API key, or at your identity provider."),
    "logout": Entry(_ACCESS, "login", "Sign out."),
    "whoami": Entry(_ACCESS, "login", "Show who is signed in, with which roles."),
    "projects": Entry(_ACCESS, "projects", "Create, list, choose and end projects, and their keys."),
    "users": Entry(_ACCESS, "users", "Create and list users, grant them roles."),
    "service-accounts": Entry(_ACCESS, "service_accounts", "Create and list the accounts of programs."),
    "api-keys": Entry(_ACCESS, "api_keys", "Create the keys that programs sign in with."),
    "secrets": Entry(_ACCESS, "secrets", "Keep values that jobs are given and nobody reads back."),
    "roles": Entry(_ACCESS, "roles", "Show the roles, and make roles of your own."),
    "limits": Entry(_ACCESS, "limits", "Limit what principals may use."),
    "auth": Entry(_ACCESS, "auth", "Ask what is permitted and why; end access before its time."),
    "audit": Entry(_ACCESS, "audit", "Show, check and export the record of what was done."),
    "compliance": Entry(_ACCESS, "compliance", "Policies for data, models and deployments, and who keeps them."),
    "pools": Entry(_FLEET, "pools", "List, create and change pools of nodes."),
    "nodes": Entry(_FLEET, "nodes", "List, mark and cordon nodes, and admit new ones."),
    "queues": Entry(_FLEET, "queues", "Divide the fleet between teams: the tree of queues."),
    "floating-resources": Entry(_FLEET, "floating_resources", "Licences and other things that lie on no node."),
    "usage": Entry(_FLEET, "usage", "Show how pools, nodes, queues and projects are used."),
    "workloads": Entry(_FLEET, "workloads", "Show everything that runs on the fleet; move it in its queue."),
    "why": Entry(_FLEET, "why", "Show why a job or workload waits, and what would help."),
    "what-if": Entry(_FLEET, "what_if", "Show what would be if the fleet or the queue were different."),
    "plan": Entry(_FLEET, "plan", "Plan allocations, scaling and load balancing."),
    "train": Entry(_TRAINING, "train", "Train a model on your data."),
    "run": Entry(_TRAINING, "run", "Run your own training script as a job."),
    "jobs": Entry(_TRAINING, "jobs", "List, watch, compare, cancel and delete training jobs."),
    "models": Entry(_SERVING, "models", "Import, register, find, stage and trace models."),
    "optimizations": Entry(_SERVING, "optimize", "List and watch searches for smaller, faster variants."),
    "deploy": Entry(_SERVING, "deploy", "Serve a model."),
    "deployments": Entry(_SERVING, "deployments", "List, update, scale and delete deployments."),
    "predict": Entry(_SERVING, "predict", "Ask a served model."),
    "predict-batch": Entry(_SERVING, "predict_batch", "Apply a model to a whole dataset."),
    "batch-predictions": Entry(_SERVING, "batch_predictions", "List, follow, stop and download batch predictions."),
    "trace": Entry(_OBSERVE, "trace", "Show what happened, from submit to answer, as a tree."),
}

_CODES: Final = ", ".join(f"{code} {meaning}" for code, meaning in exits.MEANINGS.items())
_EPILOG: Final = f"""
[bold]A first tour[/bold]

    lepton up
    lepton login --user admin --password-file .lepton/secrets/admin-password
    lepton projects create acme && lepton projects use acme
    lepton train image_classifier --data digits --workers 4 --name digits
    lepton models register digits --job digits
    lepton deploy digits --replicas 2 --wait
    lepton predict digits --data digits
    lepton trace --job digits

[bold]For scripts[/bold]

    lepton jobs list -o json      also: table, wide, yaml, name
    LEPTON_API_KEY=.. lepton ..   signs in for one command
    lepton --install-completion   completes commands in your shell

[bold]Exit codes[/bold]: {_CODES}. Errors say what happened, their reason, and what to try.
"""


class LazyGroup(TyperGroup):
    """Knows its commands by name; loads the one that is given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.help, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself, for its name."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else found, rest


def load(name: str) -> Any:
    """A command or group of commands, from its module."""
    module = import_module(f"lepton.cli.{COMMANDS[name].module}")
    loaded = typer.main.get_command(module.app)
    loaded.name = name if isinstance(loaded, TyperCommand) else loaded.name
    return getattr(loaded, "commands", {}).get(name, loaded)


app = typer.Typer(
    name="lepton",
    cls=LazyGroup,
    help="Lepton trains models on a fleet of machines and serves them.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lepton {lepton.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    """Lepton trains models on a fleet of machines and serves them."""


def run() -> None:
    """Run the command given; nothing that goes wrong is shown as a traceback unless LEPTON_DEBUG is set."""
    try:
        app(prog_name="lepton")
    except Exception as error:
        if os.environ.get("LEPTON_DEBUG"):
            raise
        print(f"error: lepton itself failed: {type(error).__name__}: {error}", file=sys.stderr)
        print("  report it; LEPTON_DEBUG=1 shows where it happened", file=sys.stderr)
        sys.exit(exits.of_status(13))
