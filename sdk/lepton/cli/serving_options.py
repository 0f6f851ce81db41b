"""How a deployment's model is run, as people type it: `--serve max_batch_size=16 --serve queue.timeout_us=5000`."""

import json
from collections.abc import Sequence
from typing import Any, Final

import typer
from google.protobuf.json_format import ParseDict, ParseError

from lepton.inference.v1.serving_options_pb2 import ServingOptions

SERVE: Final = typer.Option(
    "--serve",
    metavar="FIELD=VALUE",
    help="How the model is run, e.g. max_batch_size=16, instances=2, engine=TENSORRT, shared=true; may be repeated.",
)


def serving(given: Sequence[str]) -> ServingOptions | None:
    """The options; None when nothing is asked for. Raises BadParameter, which names the field."""
    document: dict[str, Any] = {}
    for each in given:
        field, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"{each!r} has not the form FIELD=VALUE; fields: {', '.join(_FIELDS)}")
        _put(document, field.split("."), value)
    if not document:
        return None
    try:
        return ParseDict(document, ServingOptions())
    except ParseError as error:
        raise typer.BadParameter(f"{error}; fields: {', '.join(_FIELDS)}") from error


_FIELDS: Final = tuple(ServingOptions.DESCRIPTOR.fields_by_name)


def _put(document: dict[str, Any], path: list[str], value: str) -> None:
    for name in path[:-1]:
        inner = document.setdefault(name, {})
        if not isinstance(inner, dict):
            raise typer.BadParameter(f"{'.'.join(path)} is a value and has parts")
        document = inner
    try:
        document[path[-1]] = json.loads(value)
    except ValueError:
        document[path[-1]] = value  # a name, as TENSORRT
