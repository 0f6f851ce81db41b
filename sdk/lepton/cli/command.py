"""Makes commands of async functions: every one gets the same options, and ends in the same way."""

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Final, get_type_hints

import typer
from typer.core import TyperCommand

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


def command(
    app: typer.Typer, name: str, *, title: str = "", cls: type[TyperCommand] = TyperCommand
) -> Callable[[Body], Body]:
    """Register `async def body(shell, ...)` as a command; what it returns is the exit code.

    A parameter whose type is a dataclass stands for its fields: options that several commands share.
    """

    def register(body: Body) -> Body:
        group = app.info.name if isinstance(app.info.name, str) else ""
        whole = title or f"lepton {group} {name}".replace("  ", " ")
        own, shared = _parameters(body)

        def callback(**given: Any) -> None:
            wishes = Wishes(**{key: given.pop(key) for key in _COMMON})
            for key, options in shared.items():
                given[key] = options(**{field.name: given.pop(field.name) for field in fields(options)})
            shell = Shell(wishes)
            shell.run(whole, lambda: body(shell, **given))

        parameters = [
            *own,
            *(_keyword(key, annotation, default) for key, (annotation, default) in _COMMON.items()),
        ]
        callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        callback.__annotations__ = {each.name: each.annotation for each in parameters}
        callback.__doc__ = body.__doc__
        app.command(name, cls=cls)(callback)
        return body

    return register


def _parameters(body: Body) -> tuple[list[inspect.Parameter], dict[str, type[Any]]]:
    """The parameters that a command shows, and which of the body's are made of several of them."""
    hints = get_type_hints(body, include_extras=True)
    shown: list[inspect.Parameter] = []
    shared: dict[str, type[Any]] = {}
    for each in list(inspect.signature(body).parameters.values())[1:]:
        hint = hints[each.name]
        if not is_dataclass(hint) or not isinstance(hint, type):
            shown.append(_keyword(each.name, hint, each.default))
            continue
        shared[each.name] = hint
        inner = get_type_hints(hint, include_extras=True)
        shown += [_keyword(field.name, inner[field.name], field.default) for field in fields(hint)]
    return shown, shared


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
