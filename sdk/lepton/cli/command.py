"""Makes commands of async functions: every one gets the same options, and ends in the same way."""

import inspect
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, get_type_hints

import typer

from lepton.cli.output import Form
from lepton.cli.shell import Shell, Wishes

Body = Callable[..., Coroutine[Any, Any, int | None]]
_PANEL: Final = "Every command"

_COMMON: Final = {
    "output": (
        Annotated[Form, typer.Option("--output", "-o", help="The form of the output.", rich_help_panel=_PANEL)],
        Form.TABLE,
    ),
    "project": (
        Annotated[
            str,
            typer.Option(
                "--project", "-p", envvar="LEPTON_PROJECT", help="The project worked in.", rich_help_panel=_PANEL
            ),
        ],
        "",
    ),
    "patience": (
        Annotated[
            float,
            typer.Option(
                "--patience", min=0.0, help="Seconds to try again while a service is away.", rich_help_panel=_PANEL
            ),
        ],
        20.0,
    ),
    "trace": (
        Annotated[
            bool,
            typer.Option(
                "--trace", envvar="LEPTON_TRACE", help="Trace the command and print the id.", rich_help_panel=_PANEL
            ),
        ],
        False,
    ),
}


def command(app: typer.Typer, name: str, *, title: str = "") -> Callable[[Body], Body]:
    """Register `async def body(shell, ...)` as a command; what it returns is the exit code."""

    def register(body: Body) -> Body:
        group = app.info.name if isinstance(app.info.name, str) else ""
        whole = title or f"lepton {group} {name}".replace("  ", " ")

        def callback(**given: Any) -> None:
            wishes = Wishes(**{key: given.pop(key) for key in _COMMON})
            shell = Shell(wishes)
            shell.run(whole, lambda: body(shell, **given))

        hints = get_type_hints(body, include_extras=True)
        own = list(inspect.signature(body).parameters.values())[1:]
        kept = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(each.name, kept, annotation=hints[each.name], default=each.default) for each in own
        ] + [
            inspect.Parameter(key, kept, annotation=annotation, default=default)
            for key, (annotation, default) in _COMMON.items()
        ]
        callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        callback.__annotations__ = {each.name: each.annotation for each in parameters}
        callback.__doc__ = body.__doc__
        app.command(name)(callback)
        return body

    return register
